"""A cohort compared with a release's training data: what bundles carry, old and new, and which bundle may be compared with."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.cohort.drift import drift, open_release
from cmb_models.config.params import Decision
from cmb_models.dataset.statistics import BEST_SCORE, BRIGHT, DETECTIONS, IN_PLANE, QUANTITIES, SLICE, SPREAD, training_references
from cmb_models.detect.fusion import calibrated
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.release.base import base_bundle
from cmb_models.release.metadata import training_statistics
from tests.support.bundles import make_bundle
from tests.support.refused import refused

DECISION = Decision(slope=2.0, intercept=-1.0, threshold=0.4, stage2_weight=0.5)


def columns(count: int, **changed) -> dict[str, list]:
    """The table of `count` scans of one kind, with 1 mm in plane and slices of 2 mm, stored with the slices first."""
    rows = {"spacing_i_mm": 2.0, "spacing_j_mm": 1.0, "spacing_k_mm": 1.0, SPREAD: 0.5, BRIGHT: 1.5, BEST_SCORE: 0.2, DETECTIONS: 0}
    return {name: [value] * count for name, value in (rows | changed).items()}


def scored(key: str, *scores: float) -> ScoredScan:
    return ScoredScan(key, key, (), np.zeros((len(scores), 3)), np.array(scores))


def test_training_scores_are_calibrated_and_counted_at_the_threshold():
    one, other = {IN_PLANE: 0.5, SLICE: 2.0, SPREAD: None, BRIGHT: 1.2}, {IN_PLANE: 0.6, SLICE: 2.0, SPREAD: 0.4, BRIGHT: 1.3}
    found = training_statistics({"a": one, "b": other}, [scored("a", 0.9, 0.8, 0.1), scored("b")], DECISION)
    assert found.keys() == set(QUANTITIES)
    assert found[SPREAD]["scans"] == 1 and found[IN_PLANE]["quantiles"][0] == 0.5
    lowest, highest = ({name: found[name]["quantiles"][n] for name in (BEST_SCORE, DETECTIONS)} for n in (0, -1))
    assert lowest == {BEST_SCORE: 0.0, DETECTIONS: 0.0}
    assert highest == {BEST_SCORE: pytest.approx(float(calibrated(0.9, DECISION))), DETECTIONS: 2.0}


def test_a_cohort_of_other_slices_is_flagged_by_them_alone():
    measured = {str(n): {IN_PLANE: 1.0, SLICE: 2.0, SPREAD: 0.5, BRIGHT: 1.5} for n in range(40)}
    known = training_statistics(measured, [scored(str(n), 0.3) for n in range(40)], DECISION)
    same = {BEST_SCORE: float(calibrated(0.3, DECISION))}
    found = drift(columns(30, spacing_i_mm=3.0, **same), known, None)
    flagged = {name for name, c in found["quantities"].items() if c["outside_flag"] or c["distance_flag"]}
    assert flagged == {SLICE} and found["not_compared"] == []
    assert found["quantities"][SLICE] == {
        "cohort": [3.0] * 3,
        "training": [2.0] * 3,
        "outside": 1.0,
        "distance": 1.0,
        "outside_flag": True,
        "distance_flag": True,
    }
    # Detections at another threshold are not those that the training data were counted at.
    assert drift(columns(30, **same), known, 0.9)["not_compared"] == [DETECTIONS]


def test_scans_without_candidates_have_the_lowest_score_and_no_scan_compares_with_nothing():
    known = training_statistics({}, [scored("a"), scored("b")], DECISION)
    assert drift(columns(5, best_score=None), known, None)["quantities"][BEST_SCORE]["cohort"] == [0.0, 0.0, 0.0]
    assert drift(columns(0), known, None) == {"quantities": {}, "not_compared": list(QUANTITIES)}


def test_bundles_of_earlier_versions_have_voxel_sizes_or_nothing():
    voxels = [{"mm": [0.5, 0.5, 2.0], "scans": 3}, {"mm": [0.6, 0.6, 1.0], "scans": 1}]
    found = training_references({"data": {"training": {"voxels": voxels}}})
    assert found.keys() == {IN_PLANE, SLICE} and found[IN_PLANE]["scans"] == 4
    assert (found[SLICE]["quantiles"][0], found[SLICE]["at_most"][0], found[SLICE]["quantiles"][-1]) == (1.0, 0.25, 2.0)
    assert training_references({"name": "cmb-detector"}) == {}


def test_the_base_release_can_be_compared_with():
    found = training_references(open_release("base", None).metadata)
    assert {IN_PLANE, SLICE} <= found.keys() and found[SLICE]["scans"] > 50 and base_bundle().is_dir()


def test_a_bundle_of_another_release_is_refused(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    sha256 = open_release(str(bundle), None).manifest_sha256
    assert open_release(str(bundle), sha256).path == bundle
    with refused("results-mixed", got=sha256[:12]):
        open_release(str(bundle), "0" * 64)
