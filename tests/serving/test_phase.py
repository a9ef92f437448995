"""Releases that use phase beside ones that do not: what the server wants, what it answers, and switching between the kinds."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

from cmb_models.client.contract import CANDIDATES, CNN, DECIDE, DETECTOR, PREPARE, UNET, inputs_of
from cmb_models.client.grpc import Client
from cmb_models.detection import DetectionResult
from cmb_models.release.bundle import GOLDEN_SCAN, BundleDetector, verify_manifest
from cmb_models.serving.check import checks
from cmb_models.serving.check.command import main as smoke
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.serving.triton.repository import ENSEMBLES
from cmb_models.volume import Volume
from tests.support.bundles import MORE_MM, altered, find_nothing, head, head_phase, make_bundle, spots_found
from tests.support.refused import refused

pytestmark = pytest.mark.serving
SCAN, PHASE = head(MORE_MM, seed=5), head_phase(MORE_MM, seed=5, sign=-1, calcified=1)


@dataclass(frozen=True)
class Site:
    """A live server; bundles: without phase, and with it."""

    url: str
    repository: Path
    client: Client
    bundles: dict[bool, Path]

    def deploy(self, phase: bool, release: int) -> None:
        deploy_bundle(self.bundles[phase], release, self.repository, self.url)

    def deploy_next(self, bundle: Path) -> None:
        """Deploy a bundle under the number after the one that is served."""
        numbers = set().union(*self.resident().values())
        deploy_bundle(bundle, max(numbers, default=0) + 1, self.repository, self.url)

    def resident(self) -> dict[str, set[int]]:
        """Versions that are ready of each model but the ensembles."""
        found: dict[str, set[int]] = {}
        for model in grpc.InferenceServerClient(self.url).get_model_repository_index().models:
            if model.state == "READY" and model.name not in ENSEMBLES:
                found.setdefault(model.name, set()).add(int(model.version))
        return found

    def on_disk(self) -> dict[str, set[int]]:
        """Version folders of each model but the ensembles."""
        models = (p for p in self.repository.iterdir() if p.is_dir() and p.name not in ENSEMBLES)
        return {m.name: {int(v.name) for v in m.iterdir() if v.is_dir()} for m in models}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase")
    bundles = {phase: make_bundle(folder / f"bundle-{phase}", threshold=0.9, phase=phase) for phase in (False, True)}
    with running_server(folder / "repository") as server, Client(server.grpc_url) as client:
        yield Site(server.grpc_url, folder / "repository", client, bundles)


def models(swi: set[int], phase: set[int]) -> dict[str, set[int]]:
    """What is resident with these releases of either kind."""
    found = dict.fromkeys((UNET, DECIDE), swi | phase)
    found |= dict.fromkeys((PREPARE, CANDIDATES, CNN), swi) if swi else {}
    return found | (dict.fromkeys((f"{PREPARE}_phase", f"{CANDIDATES}_phase", f"{CNN}_phase"), phase) if phase else {})


def agree(got: DetectionResult, expected: DetectionResult) -> None:
    assert [d.index for d in got.candidates] == [d.index for d in expected.candidates]
    for one, other in zip(got.candidates, expected.candidates, strict=True):
        assert abs(one.score - other.score) < 1e-4 and abs(one.stage2_score - other.stage2_score) < 1e-4
    assert got.manifest_sha256 == expected.manifest_sha256


def send_until(done: threading.Event, url: str, answers: list[DetectionResult], faults: list[Exception]) -> None:
    with Client(url) as client:
        while not done.is_set():
            try:
                answers.append(client.detect(SCAN, PHASE))
            except Exception as error:  # any loss is what the test looks for
                faults.append(error)


def test_promotion_to_phase_and_back_loses_no_request_of_who_sends_both(site):
    """A release without phase, one with, one more with, and back to the first kind; answers are each release's own throughout."""
    site.deploy(False, 1)
    assert site.resident() == site.on_disk() == models({1}, set()) and not site.client.requires_phase
    answers, faults, done = [], [], threading.Event()
    sender = threading.Thread(target=send_until, args=(done, site.url, answers, faults))
    sender.start()
    try:
        site.deploy(True, 2)
        assert site.resident() == site.on_disk() == models({1}, {2}) and site.client.requires_phase
        assert site.client.detect(SCAN, PHASE).release == 2
        site.deploy(True, 3)
        assert site.resident() == site.on_disk() == models(set(), {2, 3})
        assert site.client.detect(SCAN, PHASE).release == 3
        site.deploy(False, 4)
        assert site.resident() == site.on_disk() == models({4}, {3}) and not site.client.requires_phase
        assert site.client.detect(SCAN, PHASE).release == 4
    finally:
        done.set()
        sender.join()
    assert not faults and {a.release for a in answers} == {1, 2, 3, 4}
    expected = {phase: BundleDetector(bundle).detect(SCAN, PHASE) for phase, bundle in site.bundles.items()}
    assert spots_found(expected[False], MORE_MM) == 5 and spots_found(expected[True], MORE_MM) == 4
    for answer in answers:
        agree(answer, expected[answer.release in (2, 3)])


@pytest.fixture(params=[False, True], ids=["SWI", "SWI and phase"])
def served(request, site) -> bool:
    """Whether the release that answers uses phase; either kind is deployed in turn."""
    now = site.client.serving()
    if now is None or now.manifest_sha256 != verify_manifest(site.bundles[request.param]):
        site.deploy_next(site.bundles[request.param])
    return request.param


def test_inputs_are_those_of_the_release(site, served, capsys, monkeypatch):
    monkeypatch.setattr(checks, "SIZES", {"odd": checks.SIZES["odd"]})
    metadata = grpc.InferenceServerClient(site.url).get_model_metadata(DETECTOR)
    assert [t.name for t in metadata.inputs] == [t.name for t in inputs_of(served)]
    bundle = site.bundles[served]
    assert smoke([site.url, "--quick", "--bundle", str(bundle), "--scan", str(bundle / GOLDEN_SCAN)]) == 0
    assert "no check failed" in capsys.readouterr().out


def test_a_scan_without_phase_is_refused_by_a_release_that_uses_it(site, served):
    if not served:
        assert site.client.detect(SCAN, case="sub-1").release
        return
    with refused("phase-missing", case="^sub-1$", got="none"):
        site.client.detect(SCAN, case="sub-1")


REFUSED = {
    "another grid": (Volume(PHASE.data, PHASE.affine + np.diag([0.2, 0, 0, 0])), "phase-grid"),
    "another scan": (
        Volume(np.random.default_rng(0).normal(0, 1, PHASE.data.shape).astype(np.float32), PHASE.affine),
        "phase-unusable",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_phase_image_that_is_not_the_scans_own(site, served, kind):
    """Refused, by client or server, in the scan's name; left aside by a release that does not use it."""
    phase, code = REFUSED[kind]
    if not served:
        assert spots_found(site.client.detect(SCAN, phase, case="sub-1"), MORE_MM) == 5
        return
    with refused(code, case="^sub-1$"):
        site.client.detect(SCAN, phase, case="sub-1")
    assert spots_found(site.client.detect(SCAN, PHASE, case="sub-1"), MORE_MM) == 4


def test_a_switch_between_asking_and_sending_costs_no_request(site, served, monkeypatch):
    """The client's first question is answered as before the switch, every later one by the server itself."""
    ask, stale = Client.requires_phase.fget, [not served]
    with Client(site.url) as client:
        monkeypatch.setattr(Client, "requires_phase", property(lambda self: stale.pop() if stale else ask(self)))
        answer = client.detect(SCAN, PHASE)
    assert not stale and spots_found(answer, MORE_MM) == (4 if served else 5)


def test_no_candidates_with_phase(site, tmp_path):
    """Stage 2 is then given one blank patch of two channels."""
    site.deploy_next(altered(site.bundles[True], tmp_path / "silent", find_nothing))
    assert site.client.requires_phase and site.client.detect(SCAN, PHASE).candidates == ()
