"""What counts as new, seen and false in simulated pairs, on saved results made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from research.followup import NEW, compared, matched, summary

SHIFT = np.eye(4)
SHIFT[0, 3] = 5.0  # from baseline to follow-up
REGISTRATION = {
    **{"kind": "rigid", "moving_to_fixed": SHIFT.tolist(), "detail": 0.95, "wrong_detail": 0.3, "overlap": 0.99, "common": 0.98},
    **{"rotation_deg": 1.0, "shift_mm": 5.0, "inconsistency_mm": 0.1},
}


def lesion(x: float) -> dict:
    return {"centre_mm": [x, 50.0, 50.0], "diameter_mm": 3.0}


def scan(*found: tuple[float, float]) -> dict:
    rows = [
        {"position_mm": [x, 50.0, 50.0], "index": [0, 0, 0], "diameter_mm": 3.0, "score": s, "stage1_score": s, "stage2_score": s}
        for x, s in found
    ]
    return {"threshold": 0.25, "candidates": rows, "affine": np.eye(4).tolist(), "shape": [100, 100, 100]}


def pair(baseline: dict, followup: dict, other_head: dict | None = None) -> dict:
    return {
        **{"number": 0, "baseline_to_followup": SHIFT.tolist(), "registration": REGISTRATION, "other_head": other_head},
        "baseline_cmbs": [lesion(20.0), lesion(30.0)],
        # Of the new ones, the last lies where the baseline, 5 mm further back, has its first voxel at x = 5 mm.
        "followup_cmbs": [lesion(25.0), lesion(35.0), lesion(60.0), lesion(70.0), lesion(2.0)],
        **{"baseline": baseline, "followup": followup},
    }


def test_new_lesions_are_counted_by_what_the_follow_up_finds_and_the_baseline_shows():
    followup = scan((25, 0.9), (36, 0.8), (61, 0.7), (2, 0.7), (90, 0.6))
    one = compared(pair(scan((20, 0.9)), followup))
    # At 60 mm it is seen, at 70 mm not found, at 2 mm not shown; the old one at 35 mm and the false positive are called new.
    assert (one["new"], one["could_be_seen"], one["called_new"]) == (3, 1, 1)
    assert (one["false_new_of_old_lesion"], one["false_new_by_false_positive"], one["counted"]) == (1, 1, 3)
    assert one["severity"] == one["severity_of_those_seen"] == one["severity_found"] == "mild"
    assert one["registration_error_mm"] == pytest.approx([0, 0]) and one["localisation_error_mm"] == pytest.approx([0, 1, 1, 0])


def test_a_faint_candidate_in_the_baseline_makes_a_new_lesion_uncertain():
    one = compared(pair(scan((20, 0.9), (30, 0.9), (55, 0.1)), scan((25, 0.9), (35, 0.9), (60, 0.7))))
    assert (one["could_be_seen"], one["called_new"], one["called_uncertain"], one["counted"]) == (1, 0, 1, 0)
    assert one["severity_found"] == "none" != one["severity"]


def test_pairs_add_up():
    good = pair(scan((20, 0.9), (30, 0.9)), scan((25, 0.9), (35, 0.9), (60, 0.7)), REGISTRATION | {"detail": 0.5})
    bad = good | {"registration": {"error": {"code": "registration-failed"}}, "other_head": {"error": {}}}
    figures = summary([good, bad, good | {"other_head": None, "number": 1}])
    assert (figures["pairs"], figures["compared"], figures["lesions"]["called_new"]) == (3, 2, 2)
    assert figures["severity"]["right"] == 2 and figures["severity"]["true"]["mild"] == 2
    assert figures["other_head"] == {"pairs": 2, "rejected": 2, "detail_max": 0.5}


def test_detections_and_lesions_are_matched_one_to_one():
    places = np.array([[0.0, 0, 0], [10, 0, 0]])
    assert matched(np.array([[1.0, 0, 0], [2, 0, 0], [13.5, 0, 0]]), places, np.array([1.5, 4.0])) == [(0, 0), (2, 1)]
    assert matched(np.zeros((0, 3)), places, np.ones(2)) == []


def test_all_classes_of_severity_occur():
    assert {0, 1, 4, 5, 9, 10} <= set(NEW) and len(NEW) == 30
