"""Peaks of crafted heatmaps, each named by what it proves."""

import numpy as np
import pytest

from cmb_models.config.params import Candidates
from cmb_models.detect.candidates import find_candidates

SPACING = (1.0, 1.0, 2.0)


def settings(floor=0.5, min_distance_mm=3.0, max_per_scan=10) -> Candidates:
    return Candidates(floor=floor, min_distance_mm=min_distance_mm, max_per_scan=max_per_scan)


def heatmap(points: dict, shape=(12, 12, 8)) -> np.ndarray:
    out = np.zeros(shape, dtype=np.float32)
    for index, value in points.items():
        out[index] = value
    return out


CASES = {
    "none": ({}, []),
    "one": ({(5, 5, 3): 0.9}, [(5, 5, 3)]),
    "below the floor": ({(5, 5, 3): 0.499}, []),
    "exactly at the floor": ({(5, 5, 3): 0.5}, [(5, 5, 3)]),
    "shoulder of a peak": ({(5, 5, 3): 0.9, (6, 5, 3): 0.8}, [(5, 5, 3)]),
    "diagonal neighbour": ({(5, 5, 3): 0.9, (6, 6, 4): 0.8}, [(5, 5, 3)]),
    "two peaks 2 mm apart keep the higher": ({(5, 5, 3): 0.8, (7, 5, 3): 0.9}, [(7, 5, 3)]),
    "two peaks 4 mm apart stay": ({(5, 5, 3): 0.8, (9, 5, 3): 0.9}, [(9, 5, 3), (5, 5, 3)]),
    "2 slices are 4 mm": ({(5, 5, 2): 0.9, (5, 5, 4): 0.8}, [(5, 5, 2), (5, 5, 4)]),
    "plateau gives its first voxel": ({(5, 5, 3): 0.7, (5, 6, 3): 0.7, (6, 5, 3): 0.7}, [(5, 5, 3)]),
    "corners": ({(0, 0, 0): 0.6, (11, 11, 7): 0.7}, [(11, 11, 7), (0, 0, 0)]),
    "equal scores keep voxel order": ({(9, 1, 1): 0.7, (1, 9, 1): 0.7}, [(1, 9, 1), (9, 1, 1)]),
    # The middle one, dropped for the best, does not drop the third.
    "chain": ({(2, 5, 3): 0.9, (4, 5, 3): 0.8, (6, 5, 3): 0.7}, [(2, 5, 3), (6, 5, 3)]),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    points, expected = CASES[case]
    index, score = find_candidates(heatmap(points), SPACING, settings())
    assert [tuple(i) for i in index] == expected
    np.testing.assert_array_equal(score, np.float32([points[e] for e in expected]))
    assert index.shape == (len(expected), 3) and index.dtype == np.int64 and score.dtype == np.float32


def test_no_more_than_asked_for_and_the_best_of_them():
    points = {(i, j, 3): 0.5 + 0.04 * (i // 4 + 3 * (j // 4)) for i in (0, 4, 8) for j in (0, 4, 8)}
    index, _ = find_candidates(heatmap(points), SPACING, settings(max_per_scan=2))
    assert [tuple(i) for i in index] == [(8, 8, 3), (4, 8, 3)]


@pytest.mark.parametrize("shape", [(0, 0, 0), (4, 0, 4), (1, 1, 1)])
def test_empty_shapes_give_nothing(shape):
    index, score = find_candidates(np.zeros(shape, dtype=np.float32), SPACING, settings())
    assert index.shape == (0, 3) and score.shape == (0,)


def test_heatmap_is_left_as_it_was():
    image = heatmap({(5, 5, 3): 0.9})
    before = image.copy()
    find_candidates(image, SPACING, settings())
    np.testing.assert_array_equal(image, before)


def test_a_heatmap_above_the_floor_everywhere_gives_the_same_list_sooner(monkeypatch):
    """Looking at the highest voxels first may not change the answer, whether they fill the list or not."""
    noise = np.random.default_rng(0).random((40, 40, 20), dtype=np.float32)
    for most in (10, 4000):
        whole = find_candidates(noise, SPACING, settings(floor=0.0, max_per_scan=most))
        with monkeypatch.context() as patch:
            patch.setattr("cmb_models.detect.candidates.FIRST_LOOK", 300)
            first = find_candidates(noise, SPACING, settings(floor=0.0, max_per_scan=most))
        np.testing.assert_array_equal(first[0], whole[0])
        np.testing.assert_array_equal(first[1], whole[1])
