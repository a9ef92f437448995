"""Crafted cases of matching, each named by what it proves; expected numbers are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.io.annotations import Annotation


def lesion(x, label="cmb", diameter=3.0):
    return Annotation("sub-1", "", float(x), 0.0, 0.0, diameter, label, "r")


def scan(lesions, found):
    """found: (x, score) pairs on the x axis."""
    centres = np.array([(x, 0.0, 0.0) for x, _ in found]).reshape(-1, 3)
    return ScoredScan("s", "sub-1", tuple(lesions), centres, np.array([s for _, s in found], dtype=float))


CASES = {
    # name: (lesions, detections, hits, false positives)
    "nothing against nothing": ([], [], 0, 0),
    "a miss": ([lesion(0)], [], 0, 0),
    "a false alarm": ([], [(0, 0.9)], 0, 1),
    "a hit at the tolerance": ([lesion(0)], [(3.0, 0.9)], 1, 0),
    "just beyond the tolerance": ([lesion(0)], [(3.01, 0.9)], 0, 1),
    "a large lesion widens it to its radius": ([lesion(0, diameter=9)], [(4.4, 0.9)], 1, 0),
    "a duplicate is a false positive": ([lesion(0)], [(0.5, 0.9), (1, 0.8)], 1, 1),
    "two lesions, one detection between": ([lesion(0), lesion(4)], [(2, 0.9)], 1, 0),
    # The nearest-first greedy choice would give the detection at 2 to the lesion at 3 and leave the one at 0 unmatched.
    "most pairs before least distance": ([lesion(0), lesion(3)], [(2, 0.9), (5.5, 0.8)], 2, 0),
    "a possible lesion is neither": ([lesion(0, "possible")], [(0, 0.9)], 0, 0),
    "a second one at a possible lesion counts": ([lesion(0, "possible")], [(0, 0.9), (1, 0.8)], 0, 1),
    "a mimic is a false positive": ([lesion(0, "mimic:vein")], [(0, 0.9)], 0, 1),
    "below the threshold nothing counts": ([lesion(0)], [(0, 0.4), (50, 0.3)], 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    lesions, found, hits, false = CASES[name]
    result = match(scan(lesions, found), threshold=0.5, tolerance_mm=3.0)
    assert (result.hits, result.false_positives) == (hits, false)


def test_detections_name_their_lesion():
    result = match(scan([lesion(0), lesion(10)], [(10.2, 0.9), (30, 0.8), (0.1, 0.7)]), 0.5, 3.0)
    assert result.lesion_of.tolist() == [1, -1, 0]
