"""`cmb serve` and `cmb deploy`. Imports wait until a command runs, so that `cmb --help` stays quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

State = Annotated[Path, typer.Option(help="Folder for the model repository, the server's log and server.json.")]


def serve(
    state: State = Path("serving-state"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 8001,
    bundle: Annotated[Path | None, typer.Option(help="Serve this bundle folder as release 1, without a registry.")] = None,
    host: Annotated[str, typer.Option(help="Address gRPC listens on; other than loopback only with TLS.")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Ask clients for a certificate of this root, PEM.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address the metrics listen on, without TLS.")] = "127.0.0.1",
) -> None:
    """Run the bundled Triton server in the foreground, with the release in production; Ctrl-C ends it."""
    import signal

    from serving.security import ADMIN_KEY, Security, state_key
    from serving.server import running_server
    from serving.state import LOG, REPOSITORY, announced, only_one

    os.environ[ADMIN_KEY] = key = state_key(state)  # for what is deployed here below
    security = Security(host, key, tls_cert, tls_key, tls_client_ca, metrics_host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C
    try:
        with only_one(state), running_server(state / REPOSITORY, grpc_port=port, log=state / LOG, security=security) as server:
            with announced(state, server):
                typer.echo(f"gRPC {server.grpc_url}, HTTP {server.http_url}, log {server.log}")
                _deploy_first(state / REPOSITORY, server.address, bundle)
                typer.echo("serving; Ctrl-C ends it")
                server.wait()
            raise RuntimeError(f"the server ended by itself; see {server.log}")
    except KeyboardInterrupt:
        typer.echo("ended")


def _deploy_first(repository: Path, url: str, bundle: Path | None) -> None:
    """Deploy what a fresh server starts with. No release in production is no fault: one may be promoted later."""
    from cmb_models.errors import InputError
    from serving.deploy import deploy_bundle

    release = 1
    if bundle is None:
        from cmb_models.registry.store import fetch_release

        try:
            files = fetch_release("production")
        except InputError as error:
            typer.echo(f"nothing deployed: {error}")
            return
        bundle, release = files.bundle_dir, files.release
    typer.echo(deploy_bundle(bundle, release, repository, url))


def deploy(
    server: Annotated[list[str] | None, typer.Option(help="HOST:PORT of a server's gRPC; repeat it for several.")] = None,
    state: State = Path("serving-state"),
    repository: Annotated[Path | None, typer.Option(help="Model repository the servers read; else the one in --state.")] = None,
) -> None:
    """Make servers serve the release that is in production. Nothing is done where it is served already."""
    from serving.deploy import deploy_production
    from serving.security import ADMIN_KEY, kept_key
    from serving.state import REPOSITORY, running_url

    if not server and (key := kept_key(state)):  # of the server here; another's is its own
        os.environ.setdefault(ADMIN_KEY, key)

    deploy_production(repository or state / REPOSITORY, server or [running_url(state)], done=lambda one: typer.echo(one))
