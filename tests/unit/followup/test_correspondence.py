"""Correspondence of findings, in cases small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.detection import Detection
from cmb_models.followup.correspondence import (
    BASE_RATE,
    CHANGES,
    Side,
    correspond,
    new_probabilities,
    there,
    tolerance_mm,
)

THRESHOLD = 0.25


def side(*rows, unseen=()) -> Side:
    """Candidates from (x in mm, score), on the x axis, 3 mm wide; unseen: numbers of those the other scan does not show."""
    candidates = tuple(Detection((float(x), 0.0, 0.0), (0, 0, 0), 3.0, score, score, score) for x, score in rows)
    places = np.array([c.position_mm for c in candidates]).reshape(-1, 3)
    return Side(candidates, places, THRESHOLD, np.array([n not in unseen for n in range(len(rows))], dtype=bool))


def classes(baseline: Side, followup: Side, tolerance: float = 3.0):
    return [(f.change, f.baseline, f.followup) for f in correspond(baseline, followup, tolerance)]


CASES = {
    "nothing in either scan": (side(), side(), []),
    "one in the follow-up alone is new": (side(), side((0, 0.9)), [("new", -1, 0)]),
    "one in the baseline alone is not seen again": (side((0, 0.9)), side(), [("not-seen-again", 0, -1)]),
    "within the tolerance it persists": (side((0, 0.9)), side((2.9, 0.8)), [("persisting", 0, 0)]),
    "beyond it there are two": (side((0, 0.9)), side((3.1, 0.8)), [("new", -1, 0), ("not-seen-again", 0, -1)]),
    "as many pairs as possible, although a nearer one exists": (
        side((0, 0.9), (3, 0.8)),
        side((2.5, 0.9), (5, 0.8)),
        [("persisting", 0, 0), ("persisting", 1, 1)],
    ),
    "one lesion of the baseline explains one of the follow-up": (
        side((0, 0.9)),
        side((-1, 0.9), (2, 0.8)),
        [("new", -1, 1), ("persisting", 0, 0)],
    ),
    "a candidate of notable score in the baseline makes it uncertain": (
        side((0, 0.1)),
        side((1, 0.9)),
        [("uncertain-new", 0, 0)],
    ),
    "one of a negligible score does not": (side((0, 0.04)), side((1, 0.9)), [("new", -1, 0)]),
    "a candidate of notable score in the follow-up makes a loss uncertain": (
        side((0, 0.9)),
        side((1, 0.1)),
        [("uncertain-gone", 0, 0)],
    ),
    "two candidates below the threshold are no lesion": (side((0, 0.2)), side((0, 0.2)), []),
    "what the baseline does not show is not new": (side(), side((0, 0.9), unseen=(0,)), [("outside-baseline", -1, 0)]),
    "what the follow-up does not show is not gone": (side((0, 0.9), unseen=(0,)), side(), [("outside-followup", 0, -1)]),
    "a pair counts even at the edge": (side((0, 0.9), unseen=(0,)), side((1, 0.9), unseen=(0,)), [("persisting", 0, 0)]),
}


@pytest.mark.parametrize("name", CASES)
def test_correspondence(name):
    baseline, followup, expected = CASES[name]
    assert classes(baseline, followup) == expected


def test_every_lesion_is_listed_once_in_the_order_of_the_classes():
    baseline = side((0, 0.9), (20, 0.8), (40, 0.7), (60, 0.1), unseen=(2,))
    followup = side((1, 0.9), (61, 0.8), (80, 0.7), (100, 0.6), (21, 0.1), unseen=(3,))
    found = classes(baseline, followup)
    assert [f[0] for f in found] == [c for c in CHANGES if c in {f[0] for f in found}]
    assert sorted(found) == sorted(
        [
            ("persisting", 0, 0),
            ("uncertain-new", 3, 1),
            ("uncertain-gone", 1, 4),
            ("new", -1, 2),
            ("outside-baseline", -1, 3),
            ("outside-followup", 2, -1),
        ]
    )


def test_exchanging_the_scans_exchanges_the_classes():
    baseline, followup = side((0, 0.9), (20, 0.8), (60, 0.1)), side((1, 0.9), (61, 0.8), (80, 0.7))
    swap = {"new": "not-seen-again", "uncertain-new": "uncertain-gone", "persisting": "persisting"}
    swap |= {there: here for here, there in swap.items()}
    assert sorted((swap[c], f, b) for c, b, f in classes(baseline, followup)) == sorted(classes(followup, baseline))


def test_a_large_lesion_may_be_found_a_radius_away():
    wide = Detection((4.5, 0.0, 0.0), (0, 0, 0), 10.0, 0.9, 0.9, 0.9)
    one = Side((wide,), np.array([wide.position_mm]), THRESHOLD, np.array([True]))
    assert classes(side((0, 0.9)), one) == [("persisting", 0, 0)]


def test_a_score_at_the_base_rate_speaks_neither_for_nor_against():
    assert there(0) == 0 and there(1) == 1 and there(BASE_RATE) == pytest.approx(0.5)
    # Odds 1/4 times the likelihood ratio's denominator 19: 4.75 to 1.
    assert there(0.2) == pytest.approx(4.75 / 5.75)


def new(baseline: Side, followup: Side) -> list[float]:
    return sorted(new_probabilities(correspond(baseline, followup, 3.0), baseline, followup).tolist(), reverse=True)


def test_probability_of_being_new():
    baseline = side((0, 0.2), (40, 0.9), (80, 0.9))
    followup = side((1, 0.8), (20, 0.6), (60, 0.7), (81, 0.9), (90, 0.04), unseen=(2,))
    # .8 where a candidate of .2 was (there 4.75 / 5.75), .6 where nothing was, .9 where .9 was (odds 9 * 19); the baseline does not
    # show the place of .7, and .04 is no detection.
    assert new(baseline, followup) == pytest.approx([0.6, 0.8 * (1 - 4.75 / 5.75), 0.9 * (1 / 172)])
    assert new(side(), followup) == pytest.approx([0.9, 0.8, 0.6])
    assert new(baseline, side()) == []


def test_the_same_candidates_twice_are_not_new():
    many = [(10 * n, 0.02) for n in range(60)]
    assert sum(new(side((-10, 0.9), *many), side((-10, 0.9), *many))) < 0.01


def test_one_new_lesion_next_to_an_old_one_is_both_counted_and_probable():
    baseline, followup = side((0, 0.95)), side((-1.5, 0.95), (2.7, 0.95))
    assert [c for c, *_ in classes(baseline, followup)] == ["new", "persisting"]
    assert new(baseline, followup)[0] == pytest.approx(0.95)


def test_nothing_at_a_place_is_no_evidence_in_a_list_that_is_cut():
    cut = replace(side((0, 0.9)), is_cut=True)
    assert classes(cut, side((0, 0.9), (20, 0.8))) == [("uncertain-new", -1, 1), ("persisting", 0, 0)]
    assert classes(side((0, 0.9), (20, 0.8)), cut) == [("persisting", 0, 0), ("uncertain-gone", 1, -1)]
    assert new(cut, side((20, 0.8))) == pytest.approx([0.4])


def test_the_tolerance_covers_the_errors_and_keeps_its_limits():
    rng = np.random.default_rng(0)
    errors = (1.0, 1.2, 1.4)
    apart = np.linalg.norm(sum(rng.normal(0, e / np.sqrt(3), (100_000, 3)) for e in errors), axis=1)
    assert (apart <= tolerance_mm(*errors)).mean() == pytest.approx(0.997, abs=0.001)
    assert tolerance_mm(0, 0.1, 0.1) == 3 and tolerance_mm(10) == 6
