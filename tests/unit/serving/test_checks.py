"""The comparisons that `cmb server check` makes between answers, on answers made by hand: faults that no server of ours has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.detection import Detection, DetectionResult
from cmb_models.serving.check.answers import difference, rows_of
from cmb_models.serving.check.checks import Failed, _on_voxels, _same, latencies
from cmb_models.volume import Volume

AFFINE = np.array([[1.0, 0, 0, -5], [0, 1, 0, -5], [0, 0, 2, -5], [0, 0, 0, 1]])
SCAN = Volume(np.zeros((10, 10, 6), np.float32), AFFINE)
ONE = Detection((0.0, 0.0, 1.0), (5, 5, 3), 3.0, 0.9, 0.8, 0.7)
TWO = Detection((3.0, -2.0, -1.0), (8, 3, 2), 2.0, 0.9, 0.6, 0.5)
ANSWER = DetectionResult((ONE, TWO), 0.5, 1, "m")


@pytest.mark.parametrize(
    ("one", "other"),
    [(ANSWER, replace(ANSWER, candidates=(TWO, ONE))), (DetectionResult((), 0.5), DetectionResult((), 0.5))],
    ids=["order", "none"],
)
def test_answers_that_agree(one, other):
    assert difference(rows_of(one), rows_of(other)) == ""


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ((ONE,), "1 candidates instead of 2"),
        ((ONE, replace(TWO, position_mm=(-3.0, -2.0, -1.0))), "positions up to 4.12 mm"),  # sides exchanged: sqrt(9 + 4 + 4)
        ((ONE, replace(TWO, score=0.85)), "scores up to 0.05"),
        ((ONE, ONE), "positions"),
        ((), "0 candidates instead of 2"),
    ],
    ids=["one lost", "mirrored", "score", "twice the same", "none"],
)
def test_another_answer_is_not(candidates, words):
    with pytest.raises(Failed, match=words):
        _same(ANSWER, replace(ANSWER, candidates=candidates), "case")


@pytest.mark.parametrize(
    "wrong",
    [{"index": (1, 5, 3)}, {"index": (5, 5, 6)}, {"index": (-1, 5, 3)}, {"position_mm": (0.0, 0.0, 3.5)}],
    ids=["mirrored index", "beyond the last slice", "below 0", "a slice off"],
)
def test_places_must_be_voxels_of_the_scan(wrong):
    _on_voxels(ANSWER, SCAN, "case")
    with pytest.raises(Failed, match="voxel"):
        _on_voxels(replace(ANSWER, candidates=(replace(ONE, **wrong),)), SCAN, "case")


def test_latencies_tell_the_first_apart():
    from cmb_models.serving.check.checks import Server

    server = Server("x", seconds={"odd": [9.0, 1.0, 2.0]})
    assert latencies(server) == [{"size": "odd", "answers": 3, "first_s": 9.0, "median_s": 2.0, "slowest_s": 9.0}]
