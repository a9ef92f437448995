"""Evaluations on held-out scans by research are logged as a site's are."""

from __future__ import annotations

import pytest

from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import write_rows
from cmb_models.files import write_json
from cmb_models.hash_chain import read_entries
from cmb_models.release.bundle import BundleDetector
from research import exposure
from research.conspicuity import sets
from research.exposure import log_evaluation
from tests.support.bundles import make_bundle
from tests.support.refused import refused
from tests.unit.evaluation.test_matching import lesion, scan


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An exposure log of the test's own."""
    monkeypatch.setattr(exposure, "EXPOSURE_LOG", tmp_path / "exposure.jsonl")
    return exposure.EXPOSURE_LOG


def test_evaluations_are_logged_scan_by_scan_with_their_figures(tmp_path, file):
    detector = BundleDetector(make_bundle(tmp_path / "bundle"))
    scans: list[ScoredScan] = [scan([lesion(0), lesion(20)], [(0, 0.999), (50, 0.9)])]
    index = [{"sha256": "b"}, {"sha256": "a"}]
    assert log_evaluation(detector, index, scans, 3.0) == "None of these held-out scans had been evaluated before."
    assert "2 times, with 1 different bundle" in log_evaluation(detector, index[:1], scans, 3.0)
    first, second = read_entries(file)
    assert (first["scans"], second["scans"]) == (["a", "b"], ["b"])
    assert first["bundle_sha256"] == detector.bundle.manifest_sha256
    assert (first["figures"]["hits"], first["figures"]["n_lesions"], first["figures"]["fp_per_scan"]) == (1, 2, 0)


def test_conspicuity_logs_its_evaluation_on_the_workspaces_held_out_scans(tmp_path, file):
    detector = BundleDetector(make_bundle(tmp_path / "models/bundle"))
    subjects = {"own": "a", "kept": "b"}
    write_json(tmp_path / "data/index.json", {"scans": [{"subject": s, "sha256": h} for s, h in subjects.items()]})
    write_json(tmp_path / "data/split.json", {"locked": ["kept"]})
    decision = detector.bundle.config.decision
    write_rows(tmp_path / "reports/evaluate", [scan([lesion(0)], [(0, 0.999)])], decision.threshold, 3.0, decision)
    sets(tmp_path, detector, (), 3.0)
    (entry,) = read_entries(file)
    assert entry["scans"] == ["b"] and entry["figures"]["hits"] == 1


def test_a_broken_log_is_refused(tmp_path, file):
    detector = BundleDetector(make_bundle(tmp_path / "bundle"))
    log_evaluation(detector, [{"sha256": "a"}], [scan([lesion(0)], [])], 3.0)
    file.write_text(file.read_text().replace('"hits": 0', '"hits": 1').replace('"hits":0', '"hits":1'))
    with refused("log-damaged"):
        log_evaluation(detector, [{"sha256": "a"}], [scan([lesion(0)], [])], 3.0)
