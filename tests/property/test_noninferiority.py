"""How often the paired interval lets a release pass that is exactly as much worse as the margin: the gate's false promise."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.statistics.paired import Judged, differences, pair_up
from tests.support.scored import TOLERANCE_MM, hashes, scored

SUBJECTS, LESIONS, MARGIN, SETS, RESAMPLES = 40, 3, 0.15, 240, 300


@pytest.fixture(scope="module")
def answers():
    """Each subject's scan with 0, 1, 2 or all microbleeds found: (SUBJECTS, LESIONS + 1)."""
    return [[scored(f"a_sub-{n}", [0.9] * h + [0.1] * (LESIONS - h)) for h in range(LESIONS + 1)] for n in range(SUBJECTS)]


def intervals(answers, true_difference: float) -> np.ndarray:
    """(SETS, 2) intervals of second - first; finding depends on the subject (easy or hard) for both alike."""
    rng, found = np.random.default_rng(7), []
    for _ in range(SETS):
        ease = rng.uniform(-0.2, 0.2, SUBJECTS)
        hits = [rng.binomial(LESIONS, 0.75 + shift + ease) for shift in (0.0, true_difference)]
        sides = [tuple(own[h] for own, h in zip(answers, side, strict=True)) for side in hits]
        pair = pair_up(*(Judged(side, 0.5, hashes(side)) for side in sides))
        found.append(differences(pair, TOLERANCE_MM, subject_draws(pair.subjects, RESAMPLES, rng))["sensitivity"].interval)
    return np.array(found)


def test_a_release_worse_by_the_margin_passes_about_once_in_forty(answers):
    """One-sided 2.5 %; percentile intervals of 40 subjects are a little short: at most 5 %, and not never."""
    passed = np.mean(intervals(answers, -MARGIN)[:, 0] >= -MARGIN)
    assert 0 < passed <= 0.05


def test_an_equal_release_mostly_passes_and_zero_is_covered_as_said(answers):
    low, high = intervals(answers, 0.0).T
    assert np.mean((low <= 0) & (high >= 0)) >= 0.91
    assert np.mean(low >= -MARGIN) >= 0.7


def test_a_much_worse_release_hardly_ever_passes(answers):
    assert np.mean(intervals(answers, -MARGIN - 0.1)[:, 0] >= -MARGIN) <= 0.01
