"""Where lesions may be inserted: in the brain, not in what else is bright, and often enough near its outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.training.data.brain_mask import MOST, NEAR_MM, NEAR_REPEATS, NEAR_SHARE, STEP, depth_mm, find_brain_mask
from cmb_models.training.data.samplers import CMB, UNKNOWN, CnnSampler, LabelledCandidates
from tests.support.examples import CNN, LESION_BANK, example

SPACING = (1.0, 1.0, 2.0)
AIR = -1.0
SHAPE = (104, 104, 52)
MIDDLE_MM = (52, 52, 52)


def from_mm(at_mm) -> np.ndarray:
    """Distance in mm (I, J, K) of each voxel from a place."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * SPACING
    return np.linalg.norm(index - at_mm, axis=-1)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A brain of 34 mm, a skull of 7 and a scalp of 6 mm about it, an eye that a nerve joins to the brain, and a vessel."""
    radius = from_mm(MIDDLE_MM)
    image = np.where((radius < 34) | ((radius > 41) & (radius < 47)), 0.0, AIR).astype(np.float32)
    image[from_mm((52, 97, 52)) < 7] = 0.0
    image[50:55, 80:92, 25:28] = 0.0  # 5 x 6 mm, from the brain to the eye
    image[44:60, 44:60, 22:30] = -0.9
    return image


def test_the_brain_is_told_from_scalp_eye_and_vessel(head):
    brain, radius = find_brain_mask(head, SPACING, AIR), from_mm(MIDDLE_MM)
    truth = ((radius < 34) & (head == 0))[tuple(slice(None, None, s) for s in STEP)]
    assert 2 * (truth & brain.mask).sum() / (truth.sum() + brain.mask.sum()) > 0.97
    places = brain.places().voxel
    assert places.dtype == np.int64 and (head[tuple(places.T)] == 0).all()
    assert radius[tuple(places.T)].max() < 34 + 3  # a stump of the nerve is left
    assert from_mm((52, 97, 52))[tuple(places.T)].min() > 7
    held = [brain.holds(v) for v in ((70, 52, 26), (52, 97, 26), (8, 52, 26), (52, 52, 26), (-1, 52, 26), (52, 52, 52))]
    assert held == [True, False, False, False, False, False]  # brain, eye, scalp, vessel, beyond either end


def test_places_are_often_near_the_outside(head):
    """At least NEAR_SHARE of them, where fewer of the brain lie there; what is near is so by depth_mm's own reckoning."""
    brain, depth = find_brain_mask(head, SPACING, AIR), depth_mm(head, SPACING, AIR)[tuple(slice(None, None, s) for s in STEP)]
    assert depth[brain.near].max() <= NEAR_MM < 2 + depth[brain.mask & ~brain.near].min()  # a grid's step off at most
    places = brain.places().voxel
    assert (brain.near[tuple((places // STEP).T)]).mean() == pytest.approx(NEAR_SHARE, abs=0.001)
    large = np.zeros((200, 200, 80), np.float32)
    large[:12] = AIR
    deep = find_brain_mask(large, SPACING, AIR)
    places = deep.places().voxel
    assert deep.near.mean() < 0.05 and len(places) == MOST
    assert (places[:, 0] < 14).mean() == pytest.approx(NEAR_SHARE, abs=0.001)
    assert np.array_equal(places, find_brain_mask(large, SPACING, AIR).places().voxel)


def test_where_the_scan_is_cut_off_the_brain_goes_on():
    """A cylinder along the slices that fills the field of view from face to face, and a scan of nothing but tissue."""
    x, y, _ = np.meshgrid(*map(np.arange, (96, 96, 40)), indexing="ij")
    brain = find_brain_mask(np.where(np.hypot(x - 48, y - 48) < 44, 0.0, AIR).astype(np.float32), SPACING, AIR)
    assert brain.mask.any() and (brain.mask == brain.mask[:, :, :1]).all()
    tissue = find_brain_mask(np.zeros((16, 16, 8), np.float32), SPACING, AIR)
    assert tissue.mask.all() and not tissue.near.any() and len(tissue.places().voxel) == 8 * 8 * 8


def test_plants_do_not_crowd_about_a_few_dark_voxels():
    """All that is dark is one voxel: the places near it come NEAR_REPEATS times, not in three synthetic lesions of ten."""
    image = np.zeros((200, 200, 80), np.float32)
    image[100, 100, 40] = AIR
    brain = find_brain_mask(image, SPACING, AIR)
    near = brain.near[tuple((brain.places().voxel // STEP).T)]
    assert near.sum() == NEAR_REPEATS * brain.near.sum() < 0.1 * len(near)


def test_places_know_what_is_dark_about_them():
    """One dark voxel: within 6 mm of it along each axis there is something dark, further off there is not."""
    image = np.zeros((64, 64, 32), np.float32)
    image[31, 31, 16] = -0.9
    places = find_brain_mask(image, SPACING, AIR).places()
    off_mm = (np.abs(places.voxel - (31, 31, 16)) * SPACING).max(axis=1)
    assert np.array_equal(places.by_dark, off_mm <= 6) and 0 < places.by_dark.sum() < len(places.by_dark)


def test_places_within_a_box():
    places = find_brain_mask(np.zeros((40, 40, 20), np.float32), SPACING, AIR).places()
    low, high = np.array([9.5, -3, 4]), np.array([20, 11.9, 6])
    here = np.flatnonzero(((places.voxel >= low) & (places.voxel <= high)).all(axis=1))
    assert 50 < len(here) < 200 and np.array_equal(np.sort(places.within(low, high)), here)
    assert not len(places.within(high + 90, high + 99))


def test_without_a_brain_there_is_no_place():
    nothing = find_brain_mask(np.full((16, 16, 8), AIR, dtype=np.float32), SPACING, AIR)
    assert nothing.places().voxel.shape == (0, 3) and not len(nothing.places().by_dark) and not nothing.holds((8, 8, 4))


def test_depth_by_hand():
    image = np.zeros((20, 12, 12), np.float32)
    image[:3], image[15, 3, 2] = AIR, AIR  # the outside, and one dark voxel that is none
    assert np.array_equal(depth_mm(image, SPACING, AIR)[:, 3, 2], np.maximum(0, np.arange(20) - 2.0))
    assert np.isinf(depth_mm(np.zeros((4, 4, 4), np.float32), SPACING, AIR)).all()


def test_stage_2_sees_nothing_planted_into_the_scalp(head):
    """Though all its look-alikes lie there, and half of the synthetic lesions go beside these: no patch reaches over the skull."""
    bright = np.where(from_mm(MIDDLE_MM) > 38, head + 4 * (head == 0), head).astype(np.float32)
    plain = replace(example([]), lesion_bank=LESION_BANK)
    scan = replace(plain, prepared=replace(plain.prepared, image=bright, shape=SHAPE))
    scalp = np.argwhere((bright > 3) & (from_mm((52, 97, 52)) > 20))[::400]
    group = LabelledCandidates(scan, np.concatenate([scalp, [[70, 52, 26]]]), np.array([*[UNKNOWN] * len(scalp), CMB]))
    settings = CNN.model_copy(update={"inserted_fraction": 1.0, "inserted_mimic_fraction": 1.0})
    sampler, rng = CnnSampler([group], settings), np.random.default_rng(0)
    assert max(sampler.batch(rng)[0].max() for _ in range(10)) < 2
    own, _ = CnnSampler([group], settings.model_copy(update={"inserted_mimic_fraction": 0.0})).batch(rng)
    assert own.max() > 3  # the look-alikes themselves are in the scalp
