"""Comparing releases of a real registry: hand-made networks, real scans, saved rows as the evaluate stage writes them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmb_models.config.params import Fusion
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import metrics_at
from cmb_models.evaluation.rows import write_rows
from cmb_models.evaluation.run import score_scans
from cmb_models.files import read_json, sha256_of, write_json
from cmb_models.hash_chain import read_entries
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.registry.gate.compare import compare
from cmb_models.registry.mlflow.store import MODEL, open_registry
from cmb_models.release.bundle import BundleDetector, write_manifest
from cmb_models.workspace.paths import EXPOSURE_LOG
from tests.support import command_line
from tests.support.bundles import BLOBS_MM, head, make_bundle
from tests.support.gates import only_asking
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.support.scored import TOLERANCE_MM

THRESHOLD = 0.5
ASKED = only_asking(min_sensitivity=0.5, sensitivity_margin=0.15, fp_margin=1.0, min_common_scans=2, min_lesions=2, bootstrap=200)
SCANS = 3


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Three locked scans and five releases: as evaluated; one that lost a microbleed a scan and raised a false alarm in the first;
    one evaluated on other scans; one without saved rows; one trained on a locked scan under another name."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"gate": ASKED}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    index = locked_scans(folder)
    bundle = make_bundle(folder / "made", threshold=THRESHOLD)
    found = score_scans(BundleDetector(bundle), folder / "data/raw", [e | {"path": str(folder / e["path"])} for e in index])
    hashes = {e["key"]: e["sha256"] for e in index}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with open_registry(folder) as registry:
            registry.ensure_model()
            add(registry, found, hashes)
            add(registry, [worse(s, n) for n, s in enumerate(found)], hashes)
            add(registry, found, {k: f"other {k}" for k in hashes})
            add(registry, None, hashes)
            add(registry, found, hashes, {"site_sub-9": hashes["locked_sub-1"]})
            registry.client.set_registered_model_alias(MODEL, "reference", "1")
    return folder


def locked_scans(folder: Path) -> list[dict]:
    """Scans with three dark spots each, all marked; return their index, as the ingest stage writes it."""
    marks, index = [], []
    for n in range(SCANS):
        path = folder / f"data/raw/locked/sub-{n}/swi/sub-{n}_swi.nii.gz"
        path.parent.mkdir(parents=True)
        write_volume(path, head(seed=n))
        marks += [Annotation(f"sub-{n}", "", *b, 4.0, "cmb", "r", "left_<thalamus>") for b in BLOBS_MM]
        about = {"key": f"locked_sub-{n}", "subject": f"locked_sub-{n}", "dataset": "locked"}
        index.append(about | {"path": path.relative_to(folder).as_posix(), "sha256": sha256_of(path)})
    write_annotations(folder / "data/raw/locked/annotations.csv", marks)
    write_json(folder / "data/index.json", {"scans": index})
    return index


def worse(scan: ScoredScan, number: int) -> ScoredScan:
    """Its best candidate falls below the threshold; in the first scan one is added where nothing is marked."""
    scores = scan.scores.copy()
    scores[np.argmax(scores)] = 0.2
    if number:
        return replace(scan, scores=scores)
    columns = {name: np.append(getattr(scan, name), 0.8) for name in ("stage1", "stage2")}
    return replace(scan, scores=np.append(scores, 0.8), centres_mm=np.vstack([scan.centres_mm, [-20.0, 10.0, 4.0]]), **columns)


def add(registry, scans: list[ScoredScan] | None, hashes: dict[str, str], trained: dict[str, str] | None = None) -> None:
    """One more release of the registry, without DVC and training: MLflow's version points to a folder with its bundle."""
    number = len(registry.releases()) + 1
    bundle = make_bundle(registry.workspace / f"stored/{number}/artifacts/bundle", threshold=THRESHOLD)
    metadata = read_json(bundle / "metadata.json")
    if scans is not None:
        write_rows(bundle / "evaluation", scans, THRESHOLD, TOLERANCE_MM, Fusion())
        metadata["metrics"] = {"evaluate": metrics_at(scans, THRESHOLD, TOLERANCE_MM)}
    write_json(bundle / "metadata.json", metadata)
    write_json(bundle / "lineage.json", {"training_scans": trained or {}, "calibrated_on": [], "locked_scans": hashes})
    tags = {"manifest_sha256": write_manifest(bundle)}
    registry.client.create_model_version(MODEL, (registry.workspace / f"stored/{number}").as_uri(), tags=tags)


@pytest.fixture
def cmb(site, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(site)

    def run(*arguments: str):
        return command_line.cmb("release", "compare", *arguments, catch_exceptions=False)

    return run


def test_figures_differences_and_the_gates_verdict(cmb):
    """All nine found against six, nothing false against one in three scans: in every resample a third less."""
    report = json.loads(cmb("reference", "2", "--json").output)
    assert report["same_scans"] and report["first"]["n_lesions"] == 9
    sensitivity, false = (report["figures"][n] for n in ("sensitivity", "fp_per_scan"))
    assert (sensitivity["first"], sensitivity["second"]) == (1.0, pytest.approx(2 / 3))
    assert sensitivity["interval"] == pytest.approx([-1 / 3, -1 / 3])
    assert false["difference"] == pytest.approx(1 / 3) and false["interval"] == [0.0, 1.0]
    checks = {c["name"].partition(",")[0]: c["passed"] for c in report["gate"]["checks"]}
    assert (
        checks["difference in sensitivity to production"] is False
        and checks["difference in false positives per scan to production"] is True
    )
    assert report["gate"]["passed"] is False
    kinds = [(d["scan"], d["kind"], d["by"]) for d in report["disagreements"]]
    assert kinds == [
        *(("locked_sub-0", *k) for k in (("hit", 1), ("false_positive", 2))),
        *((f"locked_sub-{n}", "hit", 1) for n in (1, 2)),
    ]


def test_the_terminal_says_the_same(cmb):
    text = " ".join(cmb("1", "2").output.split())
    assert "microbleeds release 2 detected 6 and release 1 detected 9: sensitivity −33 pp (−33 to −33)" in text
    assert "the gate would reject release 2 as a replacement of release 1" in text
    assert "microbleeds detected by only one release: release 1 3, release 2 0" in text
    back = " ".join(cmb("2", "1").output.split())
    assert "the gate would accept release 1 as a replacement of release 2" in back and "+33 pp (+33 to +33)" in back


def test_the_page_shows_every_place_and_needs_nothing_beside_it(cmb, tmp_path):
    cmb("1", "2", "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"<script|<link|<iframe|url\(|@import", page)
    assert all(link.startswith(("data:image/", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert page.count('<figure class="card hit">') == 3 and page.count('<figure class="card false_positive">') == 1
    assert page.count('src="data:image/jpeg') == 4 and page.count('src="data:image/svg') == 1
    assert "Detected only by release 1: 3" in page and "False positives of release 2 only: 1" in page
    assert "release 1: no candidate here" in page and "release 2: score 0.80, above its 0.50 (stage 1 0.80, stage 2 0.80)" in page
    assert "left &lt;thalamus&gt;" in page and "<thalamus>" not in page
    assert "not a medical device" in page


def test_a_scan_that_is_gone_or_changed_has_no_picture_and_that_is_said(cmb, site, tmp_path):
    file = site / "data/raw/locked/sub-0/swi/sub-0_swi.nii.gz"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:-1] + b"0")
        cmb("1", "2", "--html", str(tmp_path / "page.html"))
    finally:
        file.write_bytes(kept)
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/jpeg') == 2 and "2 cases without a picture: their scans are" in page


def test_other_locked_scans_are_not_compared(cmb, tmp_path):
    result = cmb("3", "2", "--html", str(tmp_path / "page.html"))
    text = " ".join(result.output.split())
    assert "not evaluated on the same held-out scans" in text and "0 held-out scans in common, at least 2 needed" in text
    report = json.loads(cmb("3", "2", "--json").output)
    assert report["figures"]["sensitivity"]["difference"] is None and report["figures"]["sensitivity"]["first"] == 1.0
    assert not report["gate"]["passed"] and report["disagreements"] == []
    assert "Disagreements" not in (tmp_path / "page.html").read_text()


def test_run_anew_a_release_can_be_compared_all_the_same(cmb):
    """Release 3's rows name other scans, 4 has none; both run on those of 2 answer as release 1 did, being the same networks."""
    as_1 = json.loads(cmb("1", "2", "--json").output)["figures"]
    for ref in ("3", "4"):
        report = json.loads(cmb(ref, "2", "--rerun-baseline", "--json").stdout)
        assert report["same_scans"] and report["figures"] == as_1


def test_a_run_anew_is_counted_as_a_look_at_the_locked_scans(cmb, site):
    before = len(read_entries(site / EXPOSURE_LOG))
    cmb("1", "2")  # from the rows that both hold: no look
    cmb("3", "2", "--rerun-baseline")
    entries = read_entries(site / EXPOSURE_LOG)
    assert "commit it" in cmb("3", "2", "--rerun-baseline").output and "commit it" not in cmb("1", "2").output
    assert len(entries) == before + 1 and len(entries[-1]["scans"]) == entries[-1]["figures"]["n_scans"] == 3
    kept = (site / EXPOSURE_LOG).read_text(encoding="utf-8")
    try:
        (site / EXPOSURE_LOG).write_text(kept.replace('"n_scans": 3', '"n_scans": 4'), encoding="utf-8")
        with refused("log-damaged"):
            cmb("3", "2", "--rerun-baseline")
    finally:
        (site / EXPOSURE_LOG).write_text(kept, encoding="utf-8")


def test_anew_needs_the_scans(cmb, site):
    with refused("locked-scans-changed"):
        cmb("1", "3", "--rerun-baseline")


def test_a_release_that_was_trained_on_a_locked_scan_is_not_run_on_it(cmb):
    with refused("leakage"):
        cmb("5", "2", "--rerun-baseline")


def test_too_few_scans_give_no_interval(cmb, site):
    params = site / "params.yaml"
    kept = params.read_text()
    try:
        params.write_text(yaml.safe_dump(yaml.safe_load(kept) | {"gate": ASKED | {"min_common_scans": 4}}))
        result = cmb("1", "2")
    finally:
        params.write_text(kept)
    text = " ".join(result.output.split())
    assert "sensitivity −33 pp. False positives:" in text and "4 scans in common are needed to compare the two" in text
    assert "3 held-out scans in common, at least 4 needed" in text


def test_two_releases_with_the_same_answers_say_so(cmb):
    text = " ".join(cmb("5", "1").output.split())
    assert "On the same 3 held-out scans with 9 microbleeds release 1 and release 5 have identical detections." in text


def test_a_bundle_without_rows_makes_a_page_that_says_so(cmb, tmp_path):
    text = " ".join(cmb("4", "1", "--html", str(tmp_path / "page.html")).output.split())
    assert "A bundle without the rows of its locked evaluation cannot be compared" in text
    assert "This bundle contains no evaluation" in (tmp_path / "page.html").read_text()


def test_a_release_against_itself_is_refused(site):
    with refused("releases-equal", got="release 1 twice"):
        compare("1", "reference", site)


def test_the_same_releases_give_the_same_page(cmb, tmp_path):
    for name in ("a", "b"):
        cmb("1", "2", "--html", str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
