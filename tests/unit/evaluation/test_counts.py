"""Agreement of counts against published tables and cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.statistics.counts import agreement, bland_altman, icc_2_1, stratum, weighted_kappa


def test_icc_of_the_published_table():
    """Shrout & Fleiss 1979, table 2: six targets, four judges; ICC(2,1) = .29."""
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc_2_1(np.array(table)) == pytest.approx(0.29, abs=0.005)


def test_icc_is_about_absolute_agreement():
    marked = np.array([0, 2, 5, 9])
    assert icc_2_1(np.stack([marked, marked], axis=1)) == pytest.approx(1.0)
    shifted = icc_2_1(np.stack([marked + 5, marked], axis=1))  # perfect order, constant bias
    # MS of scans = 2*Var(marked)=2*46/3; of raters 50; error 0: 30.667 / (30.667 + 2*50/4).
    assert shifted == pytest.approx(30.6667 / (30.6667 + 25), abs=1e-4)


@pytest.mark.parametrize("ratings", [[[1, 1]], [[2, 2], [2, 2]], [[1], [2]]], ids=["one scan", "no variance", "one rater"])
def test_icc_is_undefined(ratings):
    assert np.isnan(icc_2_1(np.array(ratings)))


def test_bland_altman_by_hand():
    # Differences 1, -1, 3: mean 1, standard deviation 2.
    assert bland_altman(np.array([2, 1, 3]), np.array([1, 2, 0])) == pytest.approx((1, 1 - 3.92, 1 + 3.92))
    bias, low, high = bland_altman(np.array([2]), np.array([1]))
    assert bias == 1 and np.isnan(low) and np.isnan(high)
    assert np.isnan(bland_altman(np.zeros(0), np.zeros(0))).all()


def test_strata_bounds():
    assert stratum(np.array([0, 1, 4, 5, 9, 10, 99])).tolist() == [0, 1, 1, 2, 2, 3, 3]


def test_kappa_by_hand():
    # Strata found 0, 1, 3 and marked 0, 2, 3: observed mean squared step 1/3. By chance, all nine pairs:
    # (0,4,9, 1,1,4, 9,1,0) / 9 = 29 / 9. Kappa = 1 - (1/3) / (29/9) = 1 - 3/29.
    assert weighted_kappa(np.array([0, 3, 12]), np.array([0, 7, 10])) == pytest.approx(1 - 3 / 29)
    assert weighted_kappa(np.array([0, 20]), np.array([20, 0])) == pytest.approx(-1)


def test_kappa_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    found, marked = rng.integers(0, 15, 60), rng.integers(0, 15, 60)
    expected = cohen_kappa_score(stratum(found), stratum(marked), weights="quadratic")
    assert weighted_kappa(found, marked) == pytest.approx(expected)


def test_kappa_is_undefined_when_chance_alone_agrees():
    assert np.isnan(weighted_kappa(np.array([1, 4]), np.array([2, 3]))) and np.isnan(weighted_kappa(np.zeros(0), np.zeros(0)))


def test_agreement_tells_none_for_what_is_undefined():
    report = agreement(np.array([1]), np.array([1]), np.ones((9, 1), dtype=int))
    assert (report["icc"], report["bias"], report["lower_limit"], report["weighted_kappa"]) == (None, 0.0, None, None)
    assert report["intervals_95"]["icc"] is None and report["intervals_95"]["bias"] == [0.0, 0.0]
    assert agreement(np.zeros(0), np.zeros(0), np.zeros((3, 0), dtype=int))["bias"] is None


def test_intervals_hold_the_estimate():
    rng = np.random.default_rng(1)
    marked = rng.poisson(4, 40)
    found = np.maximum(0, marked + rng.integers(-1, 2, 40))
    report = agreement(found, marked, subject_draws([str(n) for n in range(40)], 200, rng))
    for name in ("icc", "bias", "lower_limit", "upper_limit", "weighted_kappa"):
        low, high = report["intervals_95"][name]
        assert low < report[name] < high
