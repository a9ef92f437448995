"""A benchmark's look at locked scans is counted like a site's."""

from __future__ import annotations

import pytest

from benchmarks.looks import count_look
from cmb_models.bundle import BundleDetector
from cmb_models.chain import read_entries
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from tests.bundles import make_bundle
from tests.unit.test_matching import lesion, scan


def test_looks_are_counted_scan_by_scan_with_what_they_showed(tmp_path):
    detector, file = BundleDetector(make_bundle(tmp_path / "bundle")), tmp_path / "looks.jsonl"
    scans: list[ScoredScan] = [scan([lesion(0), lesion(20)], [(0, 0.999), (50, 0.9)])]
    index = [{"sha256": "b"}, {"sha256": "a"}]
    assert count_look(detector, index, scans, 3.0, file) == "None of these locked scans had been looked at before."
    assert "2 times, at 1 different bundle" in count_look(detector, index[:1], scans, 3.0, file)
    first, second = read_entries(file)
    assert (first["scans"], second["scans"]) == (["a", "b"], ["b"])
    assert first["bundle_sha256"] == detector.bundle.manifest_sha256
    assert (first["figures"]["hits"], first["figures"]["n_lesions"], first["figures"]["fp_per_scan"]) == (1, 2, 0)


def test_a_broken_ledger_is_refused(tmp_path):
    detector, file = BundleDetector(make_bundle(tmp_path / "bundle")), tmp_path / "looks.jsonl"
    count_look(detector, [{"sha256": "a"}], [scan([lesion(0)], [])], 3.0, file)
    file.write_text(file.read_text().replace('"hits": 0', '"hits": 1').replace('"hits":0', '"hits":1'))
    with pytest.raises(InputError, match="unbroken log"):
        count_look(detector, [{"sha256": "a"}], [scan([lesion(0)], [])], 3.0, file)
