"""From the registry's aliases to servers, by the commands that a site runs: two servers, each with a repository of its own."""

from __future__ import annotations

import json
import shutil

import pytest

from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.errors import InputError
from cmb_models.registry.history.archive import store_folder
from cmb_models.registry.promote import challenge, promote, rollback, withdraw_challenger
from cmb_models.serving.deploy.observed import Admin
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import CHALLENGER, PREVIOUS
from tests.integration.registry_site import set_alias
from tests.support.bundles import head
from tests.support.command_line import cmb

pytestmark = [pytest.mark.serving, pytest.mark.slow]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Address and repository of two servers."""
    folder = tmp_path_factory.mktemp("servers")
    with running_server(folder / "a") as one, running_server(folder / "b", log=folder / "b.log") as other:
        yield {one.grpc_url: folder / "a", other.grpc_url: folder / "b"}


def run(*arguments: str):
    return cmb("server", "deploy", *arguments)


def run_command(servers, *more: str, command: str = "deploy"):
    named = [word for url, folder in servers.items() for word in ("--server", f"{url}={folder}")]
    return cmb("server", command, *named, *more)


def runs(url: str) -> dict[str, int]:
    with Admin(url) as admin:
        return {ensemble: pin.release for ensemble, pin in admin.observed().pins.items()}


def test_servers_follow_the_aliases(site, servers):
    """Promotion, challenger, withdrawal and rollback, each followed by one command; then everything is as the registry says."""
    promote("1", "first", site)
    challenge("3", "to look at", site)
    assert run_command(servers, command="status").exit_code == 1
    assert run_command(servers).exit_code == 0
    assert [runs(url) for url in servers] == [{DETECTOR: 1, CHALLENGER: 3}] * 2

    promote("2", "better", site)
    withdraw_challenger("seen enough", site)
    differing = run_command(servers, command="status")
    assert differing.exit_code == 1 and "production is 1 " in differing.output and "expected none" in differing.output
    done = run_command(servers)
    assert done.exit_code == 0 and done.output.count("switched to release 2") == 2, done.output
    assert done.output.count("challenger 3 unloaded") == done.output.count("release 3 removed") == 2
    assert [runs(url) for url in servers] == [{DETECTOR: 2, PREVIOUS: 1}] * 2
    again = run_command(servers)
    assert again.exit_code == 0 and again.output.count("nothing to do") == 2

    status = run_command(servers, "--json", command="status")
    assert status.exit_code == 0
    found = json.loads(status.output)
    assert found["agree"] and found["differences"] == [] and [s["url"] for s in found["servers"]] == [*servers]
    assert all(s["aliases"] == found["registry"] and s["loaded"] == [1, 2] for s in found["servers"])

    rollback("too many false alarms", site)
    assert run_command(servers).exit_code == 0
    for url in servers:
        with Client(url) as client:
            assert client.detect(head()).release == 1
        assert runs(url) == {DETECTOR: 1, PREVIOUS: 2}


def test_status_names_what_cannot_be_reached_and_what_moved_in_mlflow(site, servers):
    promote("1", "first", site)
    assert run_command(servers).exit_code == 0
    url, folder = next(iter(servers.items()))
    lost = cmb("server", "status", "--server", f"{url}={folder}", "--server", "127.0.0.1:9")
    assert lost.exit_code == 1 and "127.0.0.1:9: expected a server that answers, got no connection" in lost.output
    set_alias(site, "challenger", 2)
    moved = run_command(servers, command="status")
    assert moved.exit_code == 1 and "registry: " in moved.output


def test_lost_files_of_the_previous_release_do_not_keep_production_from_being_served(site, servers):
    promote("1", "first", site)
    promote("2", "better", site)
    for folder in store_folder(site).glob("1-*"):
        shutil.rmtree(folder) if folder.is_dir() else None
    shutil.rmtree(site / "mlartifacts")
    shutil.rmtree(site / "serving-state" / "releases", ignore_errors=True)
    failed = run_command(servers)
    assert isinstance(failed.exception, InputError) and failed.exception.case == "previous"
    assert failed.output.count("release 2") == 2
    assert all(runs(url)[DETECTOR] == 2 for url in servers)


def test_immutable_repository_holds_what_the_aliases_name(site, tmp_path):
    promote("1", "first", site)
    promote("2", "better", site)
    written = cmb("server", "export", str(tmp_path / "new"))
    assert written.exit_code == 0 and "production is release 2" in written.output and "previous is release 1" in written.output
    assert json.loads((tmp_path / "new/deployment.json").read_text())["production"]["release"] == 2
