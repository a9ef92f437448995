"""Switching releases on a live server: what passes is switched to, what fails leaves the old release answering."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

from cmb_models.client.contract import DETECTOR, INPUTS, OUTPUTS, STEPS, UNET
from cmb_models.client.grpc import Client, Serving
from cmb_models.detection import DetectionResult
from cmb_models.files import read_json, write_json
from cmb_models.release.bundle import (
    GOLDEN_ANSWER,
    UNET_FILE,
    BundleDetector,
    load_bundle,
    verify_manifest,
)
from cmb_models.serving.check.answers import difference, rows_of
from cmb_models.serving.deploy.desired import desired_bundle
from cmb_models.serving.deploy.fleet import Target, deploy_bundle, reconcile
from cmb_models.serving.deploy.golden import check_golden
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import write_release
from tests.support.bundles import altered, candidates, find_nothing, head, make_bundle
from tests.support.refused import refused

pytestmark = pytest.mark.serving


@dataclass(frozen=True)
class Site:
    """A live server of this module's own. Tests deploy the release after the one they find, so their order does not matter."""

    url: str
    repository: Path
    client: Client

    def deploy(self, bundle: Path, release: int):
        return deploy_bundle(bundle, release, self.repository, self.url)

    def now(self) -> Serving:
        return self.client.serving()

    def next(self) -> int:
        """A release number that the server has never had."""
        return max(self.resident()) + 1

    def resident(self) -> set[int]:
        """Versions that the server has ready, the same for every step."""
        index = grpc.InferenceServerClient(self.url).get_model_repository_index().models
        found = {s: {int(m.version) for m in index if m.name == s and m.state == "READY"} for s in STEPS}
        assert len({frozenset(versions) for versions in found.values()}) == 1, found
        return found[UNET]

    def on_disk(self) -> set[int]:
        """Version folders, the same for every step."""
        found = {s: {int(p.name) for p in (self.repository / s).iterdir() if p.is_dir()} for s in STEPS}
        assert len({frozenset(versions) for versions in found.values()}) == 1, found
        return found[UNET]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two bundles that differ by their thresholds."""
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one", threshold=0.9), make_bundle(folder / "two", threshold=0.8)


@pytest.fixture(scope="module")
def site(tmp_path_factory, bundles):
    repository = tmp_path_factory.mktemp("site") / "repository"
    with running_server(repository) as server, Client(server.grpc_url) as client:
        site = Site(server.grpc_url, repository, client)
        assert site.now() is None
        assert site.deploy(bundles[0], 1).previous is None
        yield site


def change_golden(folder: Path) -> None:
    golden = read_json(folder / GOLDEN_ANSWER)
    golden["candidates"][0][3] -= 0.01
    write_json(folder / GOLDEN_ANSWER, golden)


def break_unet(folder: Path) -> None:
    (folder / UNET_FILE).write_bytes(b"not a network")


def send_until(done: threading.Event, url: str, answers: list[DetectionResult], faults: list[Exception]) -> None:
    scan = head()
    with Client(url) as client:
        while not done.is_set():
            try:
                answers.append(client.detect(scan))
            except Exception as error:  # any loss is what the test looks for
                faults.append(error)


def test_releases_switch_and_roll_back_without_losing_or_mixing_a_request(site, bundles):
    """Scans are sent all the while; the release before stays loaded, older ones go, rolling back is a deployment like another."""
    old = site.deploy(bundles[0], site.next())
    answers, faults, done = [], [], threading.Event()
    sender = threading.Thread(target=send_until, args=(done, site.url, answers, faults))
    sender.start()
    try:
        first = site.deploy(bundles[1], old.release + 1)
        assert (first.release, first.previous, first.changed) == (old.release + 1, old.release, True)
        assert site.resident() == site.on_disk() == {old.release, old.release + 1}
        assert site.client.detect(head()).release == old.release + 1

        site.deploy(bundles[0], old.release + 2)
        assert site.resident() == site.on_disk() == {old.release + 1, old.release + 2}
        assert site.client.detect(head()).release == old.release + 2

        back = site.deploy(bundles[1], old.release + 1)
        assert back.previous == old.release + 2
        assert site.resident() == site.on_disk() == {old.release + 1, old.release + 2}
        answer = site.client.detect(head())
        assert (answer.release, answer.threshold, answer.manifest_sha256) == (old.release + 1, 0.8, verify_manifest(bundles[1]))
    finally:
        done.set()
        sender.join()
    assert not faults
    assert {a.release for a in answers} == {old.release, old.release + 1, old.release + 2}
    signed = {
        old.release: old.manifest_sha256,
        old.release + 1: verify_manifest(bundles[1]),
        old.release + 2: verify_manifest(bundles[0]),
    }
    assert all(a.manifest_sha256 == signed[a.release] for a in answers)
    threshold = {verify_manifest(bundles[0]): 0.9, verify_manifest(bundles[1]): 0.8}
    assert all(a.threshold == threshold.get(a.manifest_sha256, a.threshold) for a in answers)


def served_bundle(site: Site, bundles: tuple[Path, Path]) -> Path:
    """Whichever of the two the server has; another test may have left a third, so then one is deployed."""
    for bundle in bundles:
        if site.now().manifest_sha256 == verify_manifest(bundle):
            return bundle
    site.deploy(bundles[0], site.next())
    return bundles[0]


def test_deploying_what_is_served_does_nothing(site, bundles):
    again = site.deploy(served_bundle(site, bundles), site.now().release)
    assert not again.changed
    assert "nothing to do" in str(again)


def test_bundle_with_a_flipped_byte_is_refused_before_anything_is_written(site, bundles, tmp_path):
    before, files = site.now(), site.on_disk()
    damaged = shutil.copytree(bundles[1], tmp_path / "damaged")
    content = bytearray((damaged / UNET_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / UNET_FILE).write_bytes(content)
    with refused("bundle-changed", got=f"{UNET_FILE} was changed"):
        site.deploy(damaged, site.next())
    assert site.now() == before
    assert site.on_disk() == files
    assert site.client.detect(head()).release == before.release


@pytest.mark.parametrize(
    ("change", "code", "case"),
    [
        (change_golden, "golden-answer", "golden scan"),
        (break_unet, "server-refused-release", "cmb_unet"),
    ],
    ids=["golden answer differs", "network cannot be opened"],
)
def test_release_that_fails_is_taken_out_and_the_old_one_goes_on(site, bundles, tmp_path, change, code, case):
    before, loaded = site.now(), site.resident()
    bad = altered(bundles[1], tmp_path / "bad", change)
    with refused(code, case=case):
        site.deploy(bad, site.next())
    assert site.now() == before
    assert site.client.detect(head()).release == before.release
    assert site.resident() == site.on_disk() == loaded


def test_deployment_killed_halfway_is_finished_by_the_next(site, bundles):
    before, release = site.now(), site.next()
    write_release(site.repository, load_bundle(bundles[0]), release)
    (site.repository / UNET / str(release) / "model.onnx").unlink()
    assert site.now() == before
    site.deploy(bundles[1], release)
    assert site.client.detect(head()).manifest_sha256 == verify_manifest(bundles[1])
    assert site.resident() == site.on_disk() == {before.release, release}


def test_other_content_under_a_served_number_is_refused(site, bundles):
    served = served_bundle(site, bundles)
    other = bundles[1] if served == bundles[0] else bundles[0]
    before = site.now()
    with refused("release-changed"):
        site.deploy(other, before.release)
    assert site.now() == before == Serving(before.release, verify_manifest(served))


def test_release_number_zero_is_refused(site, bundles):
    with refused("release-number"):
        site.deploy(bundles[0], 0)


def test_scan_without_candidates_gives_empty_arrays_of_the_contracts_shapes(site, bundles, tmp_path):
    release = site.next()
    site.deploy(altered(bundles[0], tmp_path / "silent", find_nothing), release)
    scan = head(blobs_mm=())
    answer = site.client.detect(scan)
    assert (answer.candidates, answer.threshold, answer.release) == ((), 0.9, release)

    client = grpc.InferenceServerClient(site.url)
    inputs = [grpc.InferInput(INPUTS[0].name, scan.data.shape, "FP32"), grpc.InferInput(INPUTS[1].name, (4, 4), "FP64")]
    inputs[0].set_data_from_numpy(scan.data)
    inputs[1].set_data_from_numpy(scan.affine)
    result = client.infer(DETECTOR, inputs)
    for tensor in OUTPUTS:
        array = result.as_numpy(tensor.name)
        assert array.shape == tuple(0 if extent == -1 else extent for extent in tensor.shape), tensor.name
        assert array.dtype == tensor.dtype, tensor.name


@pytest.mark.parametrize("most", [1, 700])
def test_one_candidate_and_hundreds_are_the_bundles_own(site, bundles, tmp_path, most):
    bundle = altered(bundles[0], tmp_path / "many", candidates(floor=1e-6, min_distance_mm=2.0, max_per_scan=most))
    site.deploy(bundle, site.next())
    got, own = site.client.detect(head()), BundleDetector(bundle).detect(head())
    assert len(own.candidates) == most
    assert difference(rows_of(own), rows_of(got)) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: replace(a, candidates=a.candidates[:-1]), "39 candidates instead of 40"),
        (lambda a: replace(a, release=4), "an answer of release 4"),
        (lambda a: replace(a, candidates=(a.candidates[1], *a.candidates[1:])), "positions up to"),
        (lambda a: replace(a, candidates=(replace(a.candidates[0], score=0.5), *a.candidates[1:])), "scores up to"),
    ],
    ids=["one missing", "other release", "one twice", "other score"],
)
def test_golden_check_names_what_differs(bundles, change, words):
    bundle = load_bundle(bundles[0])
    answer = replace(BundleDetector(bundles[0]).detect(head(seed=1)), release=3)
    check_golden(answer, bundle, 3)
    check_golden(replace(answer, candidates=answer.candidates[::-1]), bundle, 3)
    with refused("golden-answer", got=words):
        check_golden(change(answer), bundle, 3)


def test_golden_scan_without_candidates_can_agree(bundles, tmp_path):
    bundle = load_bundle(altered(bundles[0], tmp_path / "silent", find_nothing))
    check_golden(DetectionResult((), 0.9, 3, bundle.manifest_sha256), bundle, 3)


def test_server_with_an_admin_key_loads_for_its_holders_alone(bundles, tmp_path, monkeypatch):
    calls = "model-repository,shared-memory,trace,logging:admin-key=a-key"  # as in the Dockerfile
    restricted = [f"--grpc-restricted-protocol={calls}", f"--http-restricted-api={calls}"]
    with running_server(tmp_path / "repository", arguments=restricted) as server, Client(server.grpc_url) as client:
        monkeypatch.delenv("CMB_ADMIN_KEY", raising=False)
        with refused("server-refused-release"):
            deploy_bundle(bundles[0], 1, tmp_path / "repository", server.grpc_url)
        assert client.serving() is None
        monkeypatch.setenv("CMB_ADMIN_KEY", "a-key")
        deploy_bundle(bundles[0], 1, tmp_path / "repository", server.grpc_url)
        assert client.detect(head()).release == 1


def test_server_that_fails_does_not_keep_others_from_being_served(site, bundles):
    release, report = site.next(), []
    wanted = desired_bundle(bundles[1], release, {})
    with refused("server-refused-release", case="127.0.0.1:9"):
        reconcile(wanted, [Target("127.0.0.1:9", site.repository), Target(site.url, site.repository)], on_deployed=report.append)
    assert [d.release for d in report] == [release]
    assert np.isclose(site.client.detect(head()).threshold, 0.8)
