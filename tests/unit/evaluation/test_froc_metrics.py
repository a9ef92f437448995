"""FROC, metrics, thresholds and intervals on two scans whose curve is drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.froc import froc, froc_draws, mean_sensitivity
from cmb_models.evaluation.metrics import choose_threshold, count_intervals, counts_of, froc_table, intervals, metrics_at, pooled
from cmb_models.evaluation.plots import froc_figure
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.evaluation.statistics.calibration import adaptive_ece, fit_platt, reliability
from tests.unit.evaluation.test_matching import lesion, scan

# Scan A: lesions at 0 and 20; scan B: lesion at 0. Scores falling: .9 hit (A), .8 false (B), .7 hit (B), .6 false (A), .5 hit (A).
A = scan([lesion(0), lesion(20)], [(0, 0.9), (50, 0.6), (20, 0.5)])
B = scan([lesion(0)], [(70, 0.8), (0, 0.7)])
SCANS = [A, B]


def test_curve_by_hand():
    curve = froc(SCANS, 3.0)
    assert curve.thresholds.tolist() == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert curve.hits.tolist() == [0, 1, 1, 2, 2, 3]
    assert curve.false_positives.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.0, (1 / 3, 0.9)), (0.5, (2 / 3, 0.7)), (0.99, (2 / 3, 0.7)), (1.0, (1.0, 0.5)), (8, (1.0, 0.5))]
)
def test_sensitivity_at_a_rate(rate, expected):
    assert froc(SCANS, 3.0).at_fp(rate) == pytest.approx(expected)


def test_objective_is_the_mean_over_standard_rates():
    # 1/8 and 1/4: 1/3; 1/2: 2/3; 1: 1.
    assert mean_sensitivity(froc(SCANS, 3.0), 1.0) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3 + 1) / 4)


def test_table_keeps_thresholds():
    assert [(r["sensitivity"], r["threshold"]) for r in froc_table(SCANS, 3.0)][-1] == (1.0, 0.5)


def test_metrics_by_hand():
    m = metrics_at(SCANS, 0.65, 3.0)
    assert (m["hits"], m["false_positives"], m["n_lesions"], m["n_scans"]) == (2, 1, 3, 2)
    assert (m["sensitivity"], m["precision"], m["f1"], m["fp_per_scan"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 0.5))


def test_silence_on_scans_without_cmbs_is_perfect_and_says_so():
    m = metrics_at([scan([], [])], 0.5, 3.0)
    assert (m["sensitivity"], m["precision"], m["f1"], m["n_lesions"], m["n_detections"]) == (1.0, 1.0, 1.0, 0, 0)
    assert m["n_cmb_free_scans"] == 1


def test_false_positives_on_cmb_free_scans_are_apart():
    m = metrics_at([A, scan([], [(0, 0.9), (9, 0.8)])], 0.5, 3.0)
    assert m["fp_per_cmb_free_scan"] == 2.0


def test_scans_count_alike_however_many_lesions_they_have():
    """One of two found, all of one, none of one with a false positive elsewhere, none of one in silence; free ones, one silent."""
    one, found, none = scan([lesion(0)], [(0, 0.9)]), [(0, 0.9)], [(50, 0.9)]
    scans = [scan([lesion(0), lesion(20)], found), one, scan([lesion(0)], none), scan([lesion(0)], [])]
    m = metrics_at([*scans, scan([], none), scan([], [(0, 0.1)])], 0.5, 3.0)
    assert (m["mean_scan_sensitivity"], m["scan_sensitivity"], m["scan_specificity"]) == (1.5 / 4, 3 / 4, 1 / 2)
    draws = np.ones((20, 1), dtype=int)
    assert count_intervals(counts_of([one], 0.5, 3.0), draws)["scan_specificity"] == [0, 1]  # no scan to resample
    assert count_intervals(counts_of([one], 0.5, 3.0), draws)["scan_sensitivity"] == wilson(1, 1)
    assert metrics_at([one], 0.5, 3.0)["scan_specificity"] == 1.0


def test_threshold_has_the_best_sensitivity_within_the_rate():
    # Up to .5 FP/scan .7 finds most, set halfway to the next score .6; up to 1 it is .5, set halfway to 0.
    curve = froc(SCANS, 3.0)
    assert choose_threshold(curve, 0.5) == pytest.approx(0.65)
    assert choose_threshold(curve, 1.0) == pytest.approx(0.25)


def test_pooled_uses_each_groups_own_threshold():
    m = pooled([([A], 0.55), ([B], 0.75)], 3.0)
    assert (m["hits"], m["false_positives"], m["threshold"]) == (1, 2, pytest.approx(0.65))


def test_no_lesions_or_no_detections_make_no_error():
    assert np.isnan(froc([scan([], [])], 3.0).sensitivity).all()
    assert froc([scan([lesion(0)], [])], 3.0).at_fp(1.0) == (0.0, 1.0)


def test_intervals_hold_the_estimate_and_come_from_subjects():
    many = [A, B] * 5
    different = [type(s)(f"k{n}", f"sub-{n}", s.annotations, s.centres_mm, s.scores) for n, s in enumerate(many)]
    found = intervals(different, 0.65, 3.0, 200, np.random.default_rng(0))
    low, high = found["sensitivity"]
    assert low < 2 / 3 < high
    # All scans of one subject: every resample is the same set, so the interval has no width.
    # That would promise certainty, so Wilson's interval for 10 of 15 stands in.
    assert intervals(many, 0.65, 3.0, 50, np.random.default_rng(0))["sensitivity"] == pytest.approx(wilson(10, 15))


def test_platt_recovers_a_known_distortion():
    rng = np.random.default_rng(0)
    true = rng.random(20000)
    positive = rng.random(20000) < true
    logit = np.log(true / (1 - true))
    distorted = 1 / (1 + np.exp(-(0.5 * logit - 1)))  # undone by slope 2, intercept 2
    slope, intercept = fit_platt(distorted, positive)
    assert (slope, intercept) == pytest.approx((2, 2), abs=0.1)
    assert fit_platt(np.array([0.2, 0.9]), np.array([False, True])) == (1.0, 0.0)


def test_ece_by_hand():
    assert adaptive_ece(np.array([0.1, 0.9]), np.array([False, True]), bins=2) == pytest.approx(0.1)
    assert adaptive_ece(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0


@pytest.mark.parametrize("draws", [None, np.ones((5, 2), dtype=int)], ids=["without a band", "with one"])
def test_froc_figure_is_drawn(tmp_path, draws):
    froc_figure(SCANS, metrics_at(SCANS, 0.65, 3.0), 3.0, "Test", tmp_path / "froc.png", draws)
    assert (tmp_path / "froc.png").read_bytes().startswith(b"\x89PNG")


def test_resampled_curves_are_the_curves_of_the_resampled_scans():
    draws = np.array([[1, 1], [2, 0], [0, 2], [3, 1]])
    rates = (0.0, 0.5, 1.0, 8.0)
    found = froc_draws(SCANS, 3.0, rates, draws)
    for times, row in zip(draws, found, strict=True):
        curve = froc([A] * times[0] + [B] * times[1], 3.0)
        assert row.tolist() == pytest.approx([curve.at_fp(rate)[0] for rate in rates])


def test_a_resample_without_lesions_is_undefined_and_left_out():
    empty = scan([], [(0, 0.9)])
    found = froc_draws([A, empty], 3.0, (0.5,), np.array([[0, 2], [1, 1]]))
    assert np.isnan(found[0, 0]) and found[1, 0] == 0.5  # with the one at .9 first, a second false positive comes before .5
    table = froc_table([empty], 3.0, np.ones((4, 1), dtype=int), (1.0,))
    assert table == [{"fp_per_scan": 1.0, "sensitivity": None, "threshold": 1.0, "low": 0.0, "high": 1.0}]


def test_reliability_bins_hold_equal_counts():
    rows = reliability(np.array([0.9, 0.1, 0.2, 0.8]), np.array([True, False, True, True]), bins=2)
    assert rows.tolist() == [[pytest.approx(0.15), 1, 2], [pytest.approx(0.85), 2, 2]]
    assert reliability(np.zeros(0), np.zeros(0, dtype=bool)).shape == (0, 3)
