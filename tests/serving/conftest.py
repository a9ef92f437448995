"""One server for the whole folder, with a hand-made bundle deployed as release 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cmb_models.client.grpc import Client
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import Server, running_server
from tests.support.bundles import make_bundle


@dataclass(frozen=True)
class Served:
    """A running server, its model repository, the bundle it serves as release 1 and a client."""

    server: Server
    repository: Path
    bundle: Path
    client: Client


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Where the server environment is missing, this fails with the remedy (`make setup`); it does not skip."""
    folder = tmp_path_factory.mktemp("serving")
    bundle = make_bundle(folder / "bundle")
    with running_server(folder / "repository") as server, Client(server.grpc_url) as client:
        deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
        yield Served(server, folder / "repository", bundle, client)
