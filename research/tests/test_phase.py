"""The phase benchmark's figures on findings small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.evaluation.matching import ScoredScan
from cmb_models.io.annotations import Annotation
from cmb_models.training.data.examples import load_examples, save_example
from research.phase import WITH, WITHOUT, at_equal_sensitivity, divide, false_positives, leave_phase_out, separation
from tests.support.examples import example
from tests.unit.training.test_training_phase import with_phase


def scan(subject: str, *scores: float) -> ScoredScan:
    """CMBs at x = 0 and 20 mm, a calcification at 40, nothing at 60; one candidate at each, with these scores of both stages."""
    places = ((0.0, "cmb"), (20.0, "cmb"), (40.0, "mimic:calcification"))
    marked = tuple(Annotation("s", "", x, 0.0, 0.0, 3.0, label, "r") for x, label in places)
    centres, values = np.array([[0.0, 0, 0], [20, 0, 0], [40, 0, 0], [60, 0, 0]]), np.array(scores)
    return ScoredScan(subject, subject, marked, centres, values, values, values)


SCANS = {
    WITHOUT: [scan("a", 0.9, 0.5, 0.8, 0.6), scan("b", 0.9, 0.7, 0.8, 0.1)],
    WITH: [scan("a", 0.9, 0.5, 0.2, 0.6), scan("b", 0.9, 0.7, 0.75, 0.1)],
}
DRAWS = np.array([[1, 1], [2, 0], [0, 2]])


def test_false_positives_by_kind():
    assert false_positives(SCANS[WITHOUT], 0.55, 3.0).tolist() == [2, 1]
    assert false_positives(SCANS[WITHOUT], 0.55, 3.0, "mimic:calcification").tolist() == [1, 1]
    assert false_positives(SCANS[WITH], 0.55, 3.0, "mimic:calcification").tolist() == [0, 1]


def test_both_are_compared_where_they_find_as_many():
    # Without phase, at 1 false positive a scan: threshold .7, 3 of 4 found, both calcifications. With phase the same 3 at .7 too.
    row = at_equal_sensitivity(SCANS, 1.0, 3.0, DRAWS)
    assert row["sensitivity"] == 0.75
    assert row["calcifications"][WITHOUT]["fp_per_scan"] == 1 and row["calcifications"][WITH]["fp_per_scan"] == 0.5
    assert row["calcifications"]["difference"] == -0.5 == row["all"]["difference"]
    assert -1 <= row["calcifications"]["difference_interval"][0] <= -0.5 <= row["calcifications"]["difference_interval"][1] <= 0


def test_separation_counts_pairs():
    # CMBs .9 .5 .9 .7, calcifications .8 .8: 4 of 8 pairs; with phase .2 and .75: 4 + 2.
    assert separation(SCANS[WITHOUT], 3.0, DRAWS)["cmb_above_calcification"] == 0.5
    found = separation(SCANS[WITH], 3.0, DRAWS)
    assert found["cmb_above_calcification"] == 0.75 and found["calcifications"] == 2
    # Resampled to one subject alone: a has 2 of 2 pairs right, b 1 of 2.
    assert found["interval"] == pytest.approx([0.5125, 0.9875], abs=0.02)
    none = [replace(s, annotations=s.annotations[:2]) for s in SCANS[WITH]]
    assert separation(none, 3.0, DRAWS)["cmb_above_calcification"] is None


def test_subjects_are_dealt_out_by_their_microbleeds():
    index = [{"subject": s, "n_cmbs": n} for s, n in (("a", 1), ("b", 5), ("c", 0), ("d", 2), ("b", 1))]
    assert divide(index, 2)["folds"] == {"b": 0, "d": 1, "a": 0, "c": 1}


def test_scans_without_phase_are_the_same_pictures(tmp_path):
    save_example(tmp_path / "both", with_phase(example([(10, 12, 16)]), np.ones((32, 32, 16), np.float32)))
    (alone,), (both,) = load_examples(leave_phase_out(tmp_path / "both", tmp_path / "alone")), load_examples(tmp_path / "both")
    assert alone.prepared.phase is None and both.prepared.phase is not None
    assert np.array_equal(alone.prepared.image, both.prepared.image) and alone.annotations == both.annotations
