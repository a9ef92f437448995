"""A read-only repository in a server without model control: what three releases answer, with no, one and hundreds of candidates."""

from __future__ import annotations

import os

import pytest

from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.files import read_json
from cmb_models.release.bundle import BundleDetector
from cmb_models.serving.deploy.desired import DesiredState, verified
from cmb_models.serving.deploy.export import DEPLOYMENT_FILE, write_immutable
from cmb_models.serving.deploy.fleet import Target, reconcile
from cmb_models.serving.deploy.golden import run_golden
from cmb_models.serving.deploy.observed import Admin
from cmb_models.serving.deploy.status import Named, server_status
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import CHALLENGER, PREVIOUS, ROLES, ensemble_config
from tests.support.bundles import altered, candidates, find_nothing, head, make_bundle
from tests.support.refused import refused

pytestmark = pytest.mark.serving
MANY = 100


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Production finds one candidate, previous none, the challenger hundreds."""
    folder = tmp_path_factory.mktemp("bundles")
    plain = make_bundle(folder / "plain")
    one = altered(plain, folder / "one", candidates(max_per_scan=1))
    none = altered(plain, folder / "none", find_nothing)
    many = altered(plain, folder / "many", candidates(max_per_scan=1000, floor=0.03, min_distance_mm=2.5))
    return DesiredState({DETECTOR: verified(one, 5), PREVIOUS: verified(none, 4), CHALLENGER: verified(many, 7)})


@pytest.fixture(scope="module")
def folder(wanted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("immutable") / "repository"
    report = write_immutable(folder, wanted)
    assert list(report) == ["production", "previous", "challenger"] and report["production"].startswith("release 5 ")
    return folder


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(folder, log=log, arguments=["--model-control-mode=none"]) as server:
        yield server.grpc_url


def test_folder_is_read_only_and_tells_what_it_holds(folder, wanted):
    paths = [folder, *folder.rglob("*")]
    assert not [p for p in paths if p.stat().st_mode & 0o222]
    assert not [p for p in paths if p.is_dir() and not any(p.iterdir())]  # object stores keep no empty folder
    assert read_json(folder / DEPLOYMENT_FILE)["challenger"]["release"] == 7
    with refused("folder-taken"):
        write_immutable(folder, wanted)
    assert os.listdir(folder.parent) == [folder.name]


def test_release_without_files_is_not_left_out_silently(tmp_path, wanted):
    with refused("artifact-missing"):
        write_immutable(tmp_path / "new", DesiredState(wanted.releases, faults={"challenger": "gone"}))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("ensemble", "fewest", "most"), [(DETECTOR, 1, 1), (PREVIOUS, 0, 0), (CHALLENGER, MANY, 1000)])
def test_every_ensemble_answers_as_its_bundle(url, wanted, ensemble, fewest, most):
    release = wanted.releases[ensemble]
    with Client(url, model=ensemble) as client:
        got = client.detect(head(seed=3))
    expected = BundleDetector(release.bundle.path).detect(head(seed=3))
    assert fewest <= len(expected.candidates) <= most
    assert (got.release, got.manifest_sha256) == (release.pin.release, release.pin.manifest_sha256)
    assert [d.index for d in got.candidates] == [d.index for d in expected.candidates]
    assert all(abs(a.score - b.score) < 1e-4 for a, b in zip(got.candidates, expected.candidates, strict=True))


def test_golden_answers_are_those_of_the_bundles(url, wanted):
    for ensemble, release in wanted.releases.items():
        run_golden(url, ensemble, release.bundle, release.pin.release)
    with refused("golden-answer", got="an answer of release 7"):
        run_golden(url, CHALLENGER, wanted.releases[CHALLENGER].bundle, 8)


def test_nothing_can_be_loaded_or_unloaded(url, wanted, tmp_path):
    with Admin(url) as admin:
        before = admin.observed()
        with refused("server-refused-release"):
            admin.load(ensemble_config(DETECTOR, 4, wanted.releases[PREVIOUS].bundle))
        with refused("server-refused-release"):
            admin.unload(DETECTOR)
        other = DesiredState({DETECTOR: verified(wanted.releases[PREVIOUS].bundle.path, 4)})
        with refused("server-refused-release"):
            reconcile(other, [Target(url, tmp_path / "other")])
        assert admin.observed() == before


def test_status_compares_it_as_any_server(url, wanted):
    named = {a: Named(wanted.releases[e].pin.release, wanted.releases[e].pin.manifest_sha256) for a, e in ROLES.items()}
    assert server_status(url, named).differences == ()
    assert server_status(url, {**named, "previous": Named(3, "0" * 64)}).differences == (
        f"previous is 4 {named['previous'].manifest_sha256[:8]}, expected 3 00000000",
        "release 4 is still loaded",
    )
