"""Conspicuity: contrast-to-noise ratios computed by hand, and the classes."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.matching import ScoredScan
from cmb_models.io.annotations import Annotation
from cmb_models.volume import Volume
from research.conspicuity import by_class, class_name, contrast_to_noise, places

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 1.0, 0, -20], [0, 0, 2.0, -10], [0, 0, 0, 1]])


def volume(dark):
    """Signal 80, 90, 100, 110, 120 and again along i, 40 at the voxels in `dark`."""
    data = (80 + 10 * (np.indices((40, 40, 20))[0] % 5)).astype(np.float32)
    for voxel in dark:
        data[voxel] = 40
    return Volume(data, AFFINE)


def world(voxel):
    return AFFINE[:3, :3] @ np.array(voxel) + AFFINE[:3, 3]


def test_the_contrast_to_noise_ratio_by_hand():
    # Five values in equal shares, 80 to 120: median 100, half of them within 10 of it. Of the dark voxel's own nothing counts.
    scan = volume([(20, 20, 10)])
    assert contrast_to_noise(scan, world((20, 20, 10))) == pytest.approx((100 - 40) / (1.4826 * 10), rel=1e-4)
    assert contrast_to_noise(scan, world((21, 20, 10))) == contrast_to_noise(
        scan, world((20, 20, 10))
    )  # a voxel off, as candidates may be
    assert contrast_to_noise(scan, world((10, 20, 10))) == pytest.approx((100 - 80) / (1.4826 * 10), rel=1e-4)


def test_the_darkest_voxel_near_the_place_counts_and_none_further_off():
    noise = np.random.default_rng(1).normal(100, 5, (40, 40, 20)).astype(np.float32)
    noise[21, 20, 10], noise[25, 20, 10] = 60, 0
    scan = Volume(noise, AFFINE)
    assert contrast_to_noise(scan, world((20, 20, 10))) == pytest.approx(40 / 5, rel=0.1)
    assert contrast_to_noise(scan, world((10, 10, 10))) < 4


def test_places_outside_and_uniform_surroundings_have_a_ratio_of_0():
    flat = Volume(np.full((20, 20, 10), 7, dtype=np.float32), AFFINE)
    assert contrast_to_noise(flat, world((10, 10, 5))) == 0
    assert contrast_to_noise(flat, np.array([500.0, 0, 0])) == 0


def test_lesions_and_other_candidates_are_separate():
    lesion = Annotation("s", "", *world((20, 20, 10)), 3.0, "cmb", "r", "cortex")
    missed = Annotation("s", "", *world((5, 30, 10)), 3.0, "cmb", "r", "thalamus")
    centres = np.array([world((20, 21, 10)), world((30, 8, 5)), world((8, 8, 15))])
    scan = ScoredScan("s", "s", (lesion, missed), centres, np.array([0.9, 0.8, 0.1]))
    lesions, others = places(scan, volume([(20, 20, 10)]), 0.5, 3.0)
    assert [(x["about"].region, x["found"]) for x in lesions] == [("cortex", True), ("thalamus", False)]
    assert [x["found"] for x in others] == [True, False]


def test_what_finds_a_microbleed_is_no_false_positive_though_another_candidate_lies_nearer():
    lesion = Annotation("s", "", *world((20, 20, 10)), 3.0, "cmb", "r", "cortex")
    centres = np.array([lesion.centre_mm, lesion.centre_mm]) + [[2.5, 0, 0], [0, 1.0, 0]]
    scan = ScoredScan("s", "s", (lesion,), centres, np.array([0.9, 0.1]))
    lesions, others = places(scan, volume([(20, 20, 10)]), 0.5, 3.0)
    assert [x["found"] for x in lesions] == [True] and others == []


def test_classes_hold_their_lower_bound_and_add_up():
    assert [class_name(v) for v in (-1, 2.99, 3, 4.5, 7.9, 8, 50)] == [
        "below 3", "below 3", "3 to below 4.5", "4.5 to below 6", "6 to below 8", "8 and more", "8 and more",
    ]  # fmt: skip
    lesions = [{"cnr": v, "found": v > 4} for v in (2, 3.5, 5, 9, 9)]
    others = [{"cnr": v, "found": v > 8} for v in (1, 1, 9)]
    rows = by_class(lesions, others, scans=2)
    assert [(r["lesions"], r["found"]) for r in rows] == [(1, 0), (1, 0), (1, 1), (0, 0), (2, 2)]
    assert [(r["others_per_scan"], r["false_positives_per_scan"]) for r in rows] == [(1, 0), (0, 0), (0, 0), (0, 0), (0.5, 0.5)]
    assert rows[3]["interval_95"] is None and rows[4]["interval_95"] == pytest.approx([0.342, 1.0], abs=0.001)
