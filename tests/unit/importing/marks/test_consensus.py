"""What raters have in common; the numbers are derived by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.check.marks import faults_of_marks
from cmb_models.dataset.layout import ScanFile
from cmb_models.evaluation.statistics.counts import icc_2_1
from cmb_models.importing.marks.consensus import agreement, cohen_kappa, consensus, matches
from cmb_models.io.annotations import Annotation
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE


def mark(x: float, label: str = "cmb", diameter_mm: float = 3.0, rater: str = "A", y: float = 0.0) -> Annotation:
    return Annotation("sub-001", "", x, y, 0.0, diameter_mm, label, rater)


def described(rows):
    return [(r.x_mm, r.diameter_mm, r.label) for r in rows]


def test_marks_of_one_lesion():
    """2 mm, or the larger radius."""
    assert matches([mark(0)], [mark(2)]) == [(0, 0)]
    assert matches([mark(0)], [mark(2.1)]) == []
    assert matches([mark(0)], [mark(2.9, diameter_mm=6)]) == [(0, 0)]
    assert matches([mark(0)], [mark(3.1, diameter_mm=6)]) == []


def test_matching_is_one_to_one_with_most_pairs():
    """The nearest first would pair 1.5 with 2 and leave 0 and 3.6 alone."""
    assert matches([mark(0), mark(2)], [mark(1.5), mark(3.6)]) == [(0, 0), (1, 1)]


def test_consensus_of_two():
    a = [mark(0), mark(10, "possible"), mark(20), mark(30), mark(50, "mimic:vein")]
    b = [mark(1, diameter_mm=4), mark(10, "possible"), mark(20, "mimic:vein"), mark(40), mark(50, "mimic:vein")]
    rows = consensus({"B": b, "A": a})
    assert described(rows) == [
        (0.5, 3.5, "cmb"),  # the same label: mean of centre and diameter
        (10, 3, "possible"),
        (20, 3, "possible"),  # other labels
        (30, 3, "possible"),  # found by A alone
        (40, 3, "possible"),  # found by B alone
        (50, 3, "mimic:vein"),
    ]
    assert {r.rater for r in rows} == {"A+B"}
    assert consensus({"A": [], "B": []}) == []


def test_consensus_of_three_needs_two():
    rows = consensus({"A": [mark(0), mark(10)], "B": [mark(1)], "C": [mark(0.5), mark(30)]})
    assert described(rows) == [(0.5, 3, "cmb"), (10, 3, "possible"), (30, 3, "possible")]


def test_no_two_marks_of_a_consensus_are_of_one_lesion():
    """B's second mark lies 2.2 mm from B's first, but 1.3 mm from the mean of that and A's."""
    rows = consensus({"A": [mark(1.9)], "B": [mark(0), mark(2.2)]})
    assert described(rows) == [(0, 3, "possible"), (2.05, 3, "cmb")]
    rows = consensus({"A": [mark(-1.9)], "B": [mark(0), mark(0.05, y=2.1)]})
    assert len(rows) == 2
    rows = consensus({"A": [mark(1)], "B": [mark(0), mark(2.05)]})
    assert described(rows) == [(0.5, 3, "cmb")]


@pytest.mark.parametrize("at_mm", [0.0, 0.1, 1.3, 7.7, 33.4])
def test_a_consensus_has_no_pair_that_the_check_refuses(at_mm):
    """B's second mark lies 2.0 mm from the mean of A's and B's first, and 2.5 mm from A's."""
    rows = consensus({"A": [mark(at_mm)], "B": [mark(at_mm + 1.0), mark(at_mm + 2.5)]})
    scan = ScanFile("site", "sub-001", "", Path("scan.nii"), tuple(rows), False)
    volume = Volume(np.zeros((80, 80, 32), np.float32), AFFINE)
    assert not faults_of_marks(scan, volume) and len(rows) == 1


def test_cohens_kappa():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4."""
    one = [True] * 25 + [False] * 25
    other = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa([True, True], [True, True]) is None and cohen_kappa([], []) is None
    assert cohen_kappa([True, False], [False, True]) == pytest.approx(-1)


def test_icc_of_shrout_and_fleiss():
    """Their table 2, six targets and four judges: ICC(2,1) = 0.29."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert icc_2_1(ratings) == pytest.approx(0.29, abs=0.005)


def test_agreement():
    """Three scans. Microbleeds A 2, 1, 0 and B 1, 1, 1, of which 1, 1, 0 are the same: 2 * 2 / (3 + 3).

    Scans with microbleeds: A two, B three: observed 2/3, by chance 2/3 * 1 + 1/3 * 0, so kappa 0. ICC: the scans' means are
    1.5, 1, 0.5, the raters' 1, 1. Between scans 2 * (0.25 + 0 + 0.25) / 2 = 0.5, errors 4 * 0.25 / 2 = 0.5, so 0 / ... = 0.
    """
    scans = [
        {"A": [mark(0), mark(10)], "B": [mark(0), mark(30, "possible")]},
        {"A": [mark(0)], "B": [mark(1)]},
        {"A": [mark(0, "mimic:vein")], "B": [mark(0)]},
    ]
    found = agreement(scans)
    (pair,) = found.pairs
    assert (pair.raters, pair.scans, pair.marks, pair.matched) == (("A", "B"), 3, (3, 3), 2)
    assert pair.positive_agreement == pytest.approx(2 / 3) and pair.kappa == pytest.approx(0)
    assert found.icc == pytest.approx(0)


def test_agreement_of_three():
    """Pairs over the scans that both read, the ICC over those that all read: A, B and C count 2, 2, 2 and 0, 0, 0 there."""
    two = [mark(0), mark(10)]
    scans = [{"A": two, "B": two, "C": two}, {"A": [], "B": [], "C": []}, {"A": two, "B": []}]
    found = agreement(scans)
    assert [(p.raters, p.scans, p.positive_agreement) for p in found.pairs] == [
        (("A", "B"), 3, pytest.approx(2 * 2 / (4 + 2))),
        (("A", "C"), 2, 1),
        (("B", "C"), 2, 1),
    ]
    assert found.icc == pytest.approx(1)


def test_agreement_that_is_undefined():
    found = agreement([{"A": [], "B": []}])
    assert found.pairs[0].positive_agreement is None and found.pairs[0].kappa is None and found.icc is None
