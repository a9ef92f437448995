"""Statistics of scans and of training data: values checked by hand, and flags that need a real difference."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.cohort.drift import ALPHA, compare
from cmb_models.dataset.statistics import (
    BRIGHT,
    DETECTIONS,
    IN_PLANE,
    SLICE,
    SPREAD,
    intensities,
    reference,
    references,
    sides,
)
from cmb_models.volume import Volume


def test_ratios_do_not_depend_on_the_scanners_scale():
    """Head of 100 to 199 in even shares, so the 5th, 50th, 95th and 99th percentiles are 104.95, 149.5, 194.05 and 198.01."""
    head = np.tile(np.arange(100.0, 200.0), (64, 16, 2))[:, :, :200].astype(np.float32)
    data = np.repeat(np.repeat(head[:16, :16], 4, axis=0), 4, axis=1)
    data = np.repeat(data, 2, axis=2)
    found = intensities(Volume(data, np.eye(4)))
    assert found[SPREAD] == pytest.approx((194.05 - 104.95) / 149.5) and found[BRIGHT] == pytest.approx(198.01 / 149.5)
    scaled = intensities(Volume(data * 7.5, np.eye(4)))
    assert [scaled[n] for n in (SPREAD, BRIGHT)] == pytest.approx([found[n] for n in (SPREAD, BRIGHT)])
    assert scaled["median_intensity"] == pytest.approx(7.5 * 149.5) == 7.5 * found["median_intensity"]


def test_air_counts_for_the_plain_median_alone():
    data = np.full((16, 16, 8), 500.0)
    data[:, :, :6] = 3.0  # three quarters of air, below 15 % of the 99th percentile
    found = intensities(Volume(data, np.eye(4)))
    assert found == {"median_intensity": 3.0, "p99_intensity": 500.0, SPREAD: 0.0, BRIGHT: 1.0}


@pytest.mark.parametrize("value", [0.0, np.nan, -5.0])
def test_a_scan_without_signal_has_no_statistics(value):
    assert set(intensities(Volume(np.full((8, 8, 8), value), np.eye(4))).values()) == {None}


def test_sides_are_sorted_and_rounded():
    assert sides((2.0000001, 0.4999999, 0.5)) == {IN_PLANE: 0.5, SLICE: 2.0}


@pytest.mark.parametrize("side", [0.375, 0.625, 0.875])
def test_common_sides_round_alike_whatever_the_orientation(side):
    """Headers hold rotated axes in single precision, whose lengths differ in the eighth digit."""
    found = set()
    for seed in range(50):
        axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = (axes * side).astype(np.float32)
        found |= set(sides(Volume(np.zeros((2, 2, 2), np.float32), affine).spacing_mm).values())
    assert len(found) == 1


def test_quantiles_are_values_that_occur_with_their_shares():
    found = reference([0, 0, 0, 4])
    assert found["scans"] == 4 and set(found["quantiles"]) == {0.0, 4.0}
    assert found["quantiles"][15] == 0.0 and found["at_most"][15] == 0.75  # three of four, also where a lower share was asked for
    assert (found["quantiles"][16], found["at_most"][16]) == (4.0, 1.0)
    assert reference([]) is None
    assert references([{IN_PLANE: 0.5, SPREAD: None}, {DETECTIONS: 2.0}]).keys() == {IN_PLANE, DETECTIONS}


def test_scans_of_the_same_kind_are_not_flagged():
    rng = np.random.default_rng(0)
    found = [compare(reference(rng.normal(size=100)), rng.normal(size=1000)) for _ in range(50)]
    assert not any(f["outside_flag"] or f["distance_flag"] for f in found)
    assert np.mean([f["outside"] for f in found]) == pytest.approx(2 / 101, abs=0.01)  # of n = 100, whatever the distribution


def test_equal_discrete_values_are_no_distance():
    found = compare(reference([0.5] * 60 + [1.0] * 40), [0.5] * 600 + [1.0] * 400)
    assert (found["distance"], found["outside"], found["distance_flag"]) == (pytest.approx(0.0), 0.0, False)
    assert found["cohort"] == found["training"] == [0.5, 0.5, 1.0]


def test_a_shift_within_the_range_is_a_distance_and_one_beyond_it_is_outside():
    training = reference(np.linspace(0, 1, 101))
    within = compare(training, [0.9] * 50)
    assert within["outside"] == 0.0 and not within["outside_flag"]
    assert within["distance"] == pytest.approx(86 / 101) and within["distance_flag"]  # at the quantile below 0.9, 0.85
    for beyond in (-1.0, 2.0):
        found = compare(training, [0.5] * 40 + [beyond] * 10)
        assert found["outside"] == pytest.approx(0.2) and found["outside_flag"]
    assert compare(training, [-1.0] * 50)["distance"] == 1.0 == compare(training, [2.0] * 50)["distance"]


def test_one_scan_outside_a_small_training_set_is_no_flag():
    """Of 10 + 1 scans each is the lowest or highest with probability 2 / 11."""
    found = compare(reference(range(10)), [20.0])
    assert found["outside"] == 1.0 and not found["outside_flag"] and ALPHA < 2 / 11
    assert not compare(reference([1.0]), [2.0, 3.0])["outside_flag"]  # one scan has no range
    assert compare(reference([1.0]), []) is None
