"""Resamples by subject, and intervals where resampling has nothing to say."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.statistics.bootstrap import (
    percentiles,
    poisson,
    rate_interval,
    ratio,
    share_interval,
    subject_draws,
    wilson,
)

RNG = np.random.default_rng


def test_scans_of_one_subject_go_together_and_every_resample_has_as_many_subjects():
    draws = subject_draws(["b", "a", "b", "c"], 200, RNG(0))
    assert draws.shape == (200, 4) and (draws[:, 0] == draws[:, 2]).all()
    assert (draws[:, :2].sum(axis=1) + draws[:, 3] == 3).all()
    assert subject_draws([], 5, RNG(0)).shape == (5, 0)


def test_ratio_by_hand():
    draws = np.array([[1, 1], [2, 0], [0, 2], [0, 0]])
    found = ratio(np.array([1, 3]), np.array([2, 4]), draws)  # 4/6, 2/4, 6/8, and nothing
    assert found[:3].tolist() == pytest.approx([2 / 3, 1 / 2, 3 / 4]) and np.isnan(found[3])


def test_percentiles_leave_undefined_resamples_out_until_they_are_most():
    values = np.array([0.0, 1.0, np.nan])
    assert percentiles(values) == pytest.approx([0.025, 0.975])
    assert percentiles(np.array([1.0, np.nan, np.nan])) is None
    assert percentiles(np.zeros(0)) is None


def test_wilson_and_poisson_as_printed_in_the_literature():
    # 39 of 40 has the Wilson interval 87.1-99.6 %. Garwood's table: 0 events 0-3.689, 5 events 1.624-11.668.
    assert wilson(39, 40) == pytest.approx([0.871, 0.996], abs=5e-4)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0 and wilson(0, 0) == [0.0, 1.0]
    assert poisson(0, 1) == pytest.approx([0, 3.689], abs=1e-3)
    assert poisson(5, 2) == pytest.approx([1.624 / 2, 11.668 / 2], abs=1e-3)


def test_no_false_certainty_where_all_resamples_agree():
    draws = subject_draws(["a", "b", "c"], 50, RNG(0))
    ones, zeros = np.ones(3), np.zeros(3)
    assert share_interval(ones, ones, draws) == wilson(3, 3)
    assert share_interval(zeros, ones, draws) == wilson(0, 3)
    assert share_interval(zeros, zeros, draws) == [0.0, 1.0]
    assert rate_interval(zeros, draws) == poisson(0, 3)
    assert rate_interval(np.zeros(0), draws[:, :0]) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """40 subjects with 2 lesions each, found with chance .7: over 200 such sets, 95 % intervals hold .7 in about 190."""
    held = 0
    for seed in range(200):
        rng = RNG(seed)
        hits, lesions = rng.binomial(2, 0.7, 40), np.full(40, 2)
        low, high = share_interval(hits, lesions, subject_draws([str(n) for n in range(40)], 300, rng))
        held += low <= 0.7 <= high
    assert 180 <= held <= 198


def test_three_brains_tell_no_more_than_their_lesions_would_alone():
    """4 of 7, 1 of 2 and 1 of 1 found: resamples lie between 1/2 (the second brain thrice) and 1 (the third thrice)."""
    hits, lesions, draws = np.array([4, 1, 1]), np.array([7, 2, 1]), subject_draws(["a", "b", "c"], 2000, RNG(0))
    assert percentiles(ratio(hits, lesions, draws)) == [0.5, 1.0]
    assert share_interval(hits, lesions, draws) == pytest.approx([wilson(6, 10)[0], 1.0])
    assert wilson(6, 10) == pytest.approx([0.313, 0.832], abs=5e-4)
    events = np.array([1, 1, 1, 0])  # of four: 1/4 to 1 a scan by resampling, Garwood's 3 events are 0.619 to 8.767
    low, high = rate_interval(events, subject_draws(list("abcd"), 2000, RNG(0)))
    assert (low, high) == pytest.approx((0.619 / 4, 8.767 / 4), abs=1e-3)


def test_intervals_of_few_brains_cover_the_truth():
    """6 brains of 2 lesions, each brain with a chance of its own, .7 on average: 190 of 200 intervals should hold .7."""
    held, plain = 0, 0
    for seed in range(200):
        rng = RNG(seed)
        hits, lesions = rng.binomial(2, rng.beta(7, 3, 6)), np.full(6, 2)
        draws = subject_draws([str(n) for n in range(6)], 300, rng)
        low, high = share_interval(hits, lesions, draws)
        held += low <= 0.7 <= high
        low, high = percentiles(ratio(hits, lesions, draws))
        plain += low <= 0.7 <= high
    assert 184 <= held <= 198 and plain < 180
