"""Several servers on one repository: served in turn, brought back after a restart, and none kept from work by another."""

from __future__ import annotations

import pytest

from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.serving.deploy.desired import DesiredState, verified
from cmb_models.serving.deploy.fleet import Target, reconcile
from cmb_models.serving.deploy.observed import Admin
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import CHALLENGER, PREVIOUS, PROBE, ensemble_config, write_ensemble
from tests.support.bundles import head, make_bundle
from tests.support.refused import refused

pytestmark = [pytest.mark.ci, pytest.mark.serving, pytest.mark.slow]


def on_disk(repository) -> set[str]:
    return {p.name for p in (repository / "cmb_unet").iterdir() if p.is_dir()}


def test_servers_of_one_repository(tmp_path):
    bundles = [make_bundle(tmp_path / name, threshold) for name, threshold in (("a", 0.9), ("b", 0.8))]
    repository = tmp_path / "repository"
    first = DesiredState({DETECTOR: verified(bundles[0], 1)})
    second = DesiredState(
        {DETECTOR: verified(bundles[1], 2), PREVIOUS: verified(bundles[0], 1), CHALLENGER: verified(bundles[0], 3)}
    )
    with running_server(repository) as one:
        with running_server(repository, log=tmp_path / "other.log") as other:
            both = [Target(one.grpc_url, repository), Target(other.grpc_url, repository)]
            assert [d.changes for d in reconcile(first, both)] == [
                (f"switched to {first.releases[DETECTOR].pin} after its golden scan passed",)
            ] * 2
            reconcile(second, both[:1])
            assert on_disk(repository) == {"1", "2", "3"}
        report = []
        with refused("server-refused-release", case=other.grpc_url):
            reconcile(first, both[::-1], on_deployed=report.append)  # the one that has ended comes first
        assert [d.server_url for d in report] == [one.grpc_url]
        assert on_disk(repository) == {"1", "2", "3"}, "files go only when every server has been asked"
        with running_server(repository, log=tmp_path / "other.log") as empty:
            with Admin(empty.grpc_url) as admin:
                assert admin.observed().pins == {}
                reconcile(second, both[:1])
                both[1] = Target(empty.grpc_url, repository)
                back = reconcile(second, both)
                assert [d.changed for d in back] == [False, True]
                assert admin.observed().pins == {e: r.pin for e, r in second.releases.items()}
                write_ensemble(repository, PROBE, 3)
                admin.load(ensemble_config(PROBE, 3, second.releases[CHALLENGER].bundle))  # as a killed deployment leaves it
                assert not any(d.changed for d in reconcile(second, both))
                assert PROBE not in admin.observed().pins
            with Client(empty.grpc_url) as client:
                assert client.detect(head()).release == 2
            third = DesiredState({DETECTOR: verified(bundles[1], 2)})
            assert [d.changes for d in reconcile(third, both)] == [
                ("previous 1 unloaded", "challenger 3 unloaded", "release 1, 3 removed")
            ] * 2
            assert on_disk(repository) == {"2"}
