"""Patches that are turned, tilted and scaled: the picture and the points in it move together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmb_models.detect.patches import cut_channels, cut_patches
from cmb_models.detect.preprocess import Prepared
from cmb_models.io.annotations import Annotation
from cmb_models.training.data.samplers import CMB, UNKNOWN, CnnSampler, UnetSampler, kind_of, label_candidates
from cmb_models.training.data.spatial import ZOOM, cut_warped, draw_matrix, to_scan, warped_channels
from cmb_models.training.losses import microbleed_loss
from cmb_models.training.synthesis.insertion import NEARBY_SHARE, choose_places
from cmb_models.volume import world_from_index
from tests.support.examples import CNN, LESION_BANK, UNET, example

SPACING = (1.0, 1.0, 2.0)


def test_no_warp_is_the_plain_patch():
    image = np.random.default_rng(0).normal(size=(20, 22, 10)).astype(np.float32)
    middle, size = np.array([3, 12, 8]), (8, 10, 6)  # over two edges of the image
    window = to_scan(np.eye(3), middle, size)
    np.testing.assert_allclose(cut_warped(image, window, size, -7.0), cut_patches(image, middle[None], size, -7.0)[0, 0], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_spot_is_where_its_centre_is_moved_to(seed):
    """A Gaussian of 2 mm about (30, 25, 14): in any warped patch its weighted middle lies at the moved centre."""
    rng = np.random.default_rng(seed)
    world = np.stack(np.meshgrid(*map(np.arange, (60, 60, 30)), indexing="ij"), -1) * SPACING
    image = np.exp(-((world - (30, 25, 28)) ** 2).sum(-1) / 8).astype(np.float32)
    size = (32, 32, 16)
    window = to_scan(draw_matrix(SPACING, rng), np.array([32, 27, 15]), size)
    patch = cut_warped(image, window, size, 0.0)
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    found = (index * patch[..., None]).sum((0, 1, 2)) / patch.sum()
    expected = world_from_index(np.array([[30.0, 25.0, 14.0]]), np.linalg.inv(window))[0]
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_a_warp_turns_lengths_in_mm_and_scales_them_within_its_range():
    rng = np.random.default_rng(3)
    for _ in range(50):
        matrix = draw_matrix(SPACING, rng)
        step_mm = np.linalg.norm(matrix * np.array(SPACING)[:, None], axis=0) / SPACING  # a voxel's step in the scan, over its own
        assert np.all(np.abs(np.log(step_mm)) <= ZOOM + 1e-9)
        across = matrix[:, 2] * SPACING / np.linalg.norm(matrix[:, 2] * SPACING)
        assert across[2] > np.cos(np.deg2rad(45))  # slices stay slices


def test_warped_patches_are_taught_where_their_lesion_is():
    """The darkest voxel of a smoothed patch and the target's maximum are the same place, to a voxel."""
    from scipy import ndimage

    scan = example([(40, 44, 40)], shape=(80, 80, 40))
    sampler = UnetSampler([scan], UNET.model_copy(update={"warped_fraction": 1.0, "lesion_fraction": 1.0}))
    for seed in range(12):
        images, targets, weights = sampler.batch(np.random.default_rng(seed))
        assert images.shape == targets.shape == weights.shape == (2, 1, 16, 16, 8)
        for image, target in zip(images[:, 0], targets[:, 0], strict=True):
            if target.max() == 1:
                darkest = np.unravel_index(ndimage.gaussian_filter(image, 1, mode="nearest").argmin(), image.shape)
                assert np.abs(np.subtract(darkest, np.unravel_index(target.argmax(), target.shape))).max() <= 1


def test_half_of_the_plants_go_beside_something_dark():
    """Where 1 place in 16 is."""
    by_dark, rng = np.arange(32) < 2, np.random.default_rng(0)
    chosen = np.concatenate([choose_places(by_dark, 1, rng) for _ in range(400)])
    assert abs(by_dark[chosen].mean() - NEARBY_SHARE) < 0.1
    assert sorted(choose_places(by_dark, 99, rng)) == list(range(32))
    assert len(choose_places(by_dark[:0], 3, rng)) == 0
    assert all(len(set(choose_places(same, 3, rng))) == 3 for same in (np.ones(5, bool), np.zeros(5, bool)))


def test_candidates_carry_the_kind_that_is_marked():
    scan = example([(10, 10, 10), (20, 20, 20), (5, 25, 8)], ["cmb", "mimic:vein_branch", "mimic:other"])
    group = label_candidates(scan, np.array([[10, 11, 5], [20, 20, 10], [5, 25, 4], [28, 3, 3]]), match_mm=3)
    assert group.kind.tolist() == [CMB, kind_of("mimic:vein"), UNKNOWN, UNKNOWN, CMB]
    assert kind_of("cmb") == CMB and kind_of("mimic:vein") > 0 and kind_of("possible") == UNKNOWN
    batch = CnnSampler([group], CNN).batch(np.random.default_rng(0))[1]
    assert (batch == CMB).sum() == 8 and set(batch[batch != CMB]) <= {kind_of("mimic:vein"), UNKNOWN}


def test_the_kind_counts_by_its_weight_where_it_is_known():
    """Logits of 0 cost log 2; of two kinds known, both at even odds among four, each costs log 4; the unknown costs nothing."""
    kinds = torch.tensor([0, 2, -1])
    value = microbleed_loss(torch.zeros(3), torch.zeros(3, 4), kinds, 0.5)
    assert float(value) == pytest.approx(np.log(2) + 0.5 * np.log(4))
    assert float(microbleed_loss(torch.zeros(3), torch.zeros(3, 4), kinds, 0.0)) == pytest.approx(np.log(2))
    assert float(microbleed_loss(torch.zeros(1), torch.zeros(1, 4), torch.tensor([-1]), 0.5)) == pytest.approx(np.log(2))


def test_stage_2_plants_lie_beside_mimics_and_in_tissue():
    """Half of the places lie 2 to 6 mm from the one mimic, none in air."""
    from dataclasses import replace

    plain = example([], shape=(80, 80, 60))
    plain.prepared.image[:, :, :20] = -3  # air below
    scan = replace(plain, lesion_bank=LESION_BANK, annotations=(Annotation("s", "", 70.0, 70.0, 100.0, 3.0, "cmb", "r"),))
    sampler = CnnSampler([label_candidates(scan, np.array([[40, 40, 21]]), 3.0)], CNN.model_copy(update={"inserted_fraction": 1.0}))
    places = np.array([sampler._place(0, np.random.default_rng(n)) for n in range(300)])
    away = np.linalg.norm((places - (40, 40, 21)) * SPACING, axis=1)
    assert 0.15 < ((away > 1) & (away < 7.5)).mean() < 0.6
    assert places[:, 2].min() >= 19  # the coarse map of tissue may be a voxel off


def test_phase_is_warped_with_its_picture_and_across_its_wrap():
    """Phase just below pi and just above minus pi in turn: between them it is about pi, never 0; beyond the edge it is 0."""
    image = np.random.default_rng(0).normal(size=(40, 40, 20)).astype(np.float32)
    phase = np.full(image.shape, 3.1, np.float32)
    phase[::2] = -3.1
    prepared, size = Prepared(image, np.diag([*SPACING, 1.0]), image.shape, phase), (10, 10, 4)
    for seed in range(6):
        window = to_scan(draw_matrix(SPACING, np.random.default_rng(seed)), np.array([20, 20, 10]), size)
        patch = warped_channels(prepared, window, size, -3.0)
        assert patch.shape == (2, *size) and patch.dtype == np.float32
        np.testing.assert_allclose(np.cos(patch[1]), -1, atol=0.01)
        np.testing.assert_array_equal(patch[0], cut_warped(image, window, size, -3.0))
    unmoved = warped_channels(prepared, to_scan(np.eye(3), np.zeros(3, int), size), size, -3.0)
    np.testing.assert_allclose(unmoved, cut_channels(prepared, np.zeros((1, 3), int), size, -3.0)[0], atol=1e-4)
    assert not unmoved[1, :5].any() and (unmoved[0, :5] == -3).all()
