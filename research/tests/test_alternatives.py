"""The benchmark's alternatives on pictures whose answer is known: a comparison is worth what its alternatives are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmb_models.config.params import Preprocess
from cmb_models.errors import InputError
from cmb_models.runtime.torch import as_callable
from cmb_models.volume import Volume, world_from_index
from research.alternatives.radial_symmetry import (
    GRID,
    Settings,
    fit,
    gradient_of,
    roundness_of,
    shell_vox,
    spots,
    transform,
    transforms,
    votes,
)
from research.alternatives.single_stage import (
    THRESHOLDS,
    SegmentationSampler,
    best_threshold,
    components,
    dice_and_cross_entropy,
    logits,
    sphere_mask,
    train,
)
from tests.support.examples import AFFINE, UNET, example
from tests.unit.evaluation.test_matching import lesion, scan

SIDE = 31
AT = np.stack(np.meshgrid(*[np.arange(SIDE) - SIDE // 2] * 3, indexing="ij"))
MIDDLE = (SIDE // 2,) * 3
SETTINGS = Settings(radii_vox=(1, 2), strictness=2.0, least_gradient=0.05)


def soft(distance: np.ndarray, radius: float) -> np.ndarray:
    """1 outside, 0 inside, over one voxel."""
    return np.clip(distance - radius + 0.5, 0, 1)


def ball(radius: float = 2.0) -> np.ndarray:
    return soft(np.sqrt((AT**2).sum(axis=0)), radius)


def tube(radius: float = 2.0) -> np.ndarray:
    return soft(np.hypot(AT[0], AT[1]), radius)


def test_a_shell_is_counted_by_hand():
    # Going back by 1 from an edge neighbour misses by 1 - .71 along two axes, from a corner by 1 - .58 along three: all 26 hit.
    assert shell_vox(1) == 26


def test_a_dark_ball_peaks_at_its_centre_and_a_bright_one_nowhere_there():
    symmetry = transform(ball(), SETTINGS)
    assert np.unravel_index(symmetry.argmax(), symmetry.shape) == MIDDLE
    assert transform(1 - ball(), SETTINGS)[MIDDLE] < 0.01 * symmetry[MIDDLE]


def test_a_ball_off_the_middle_peaks_where_it_is():
    moved = np.roll(ball(), (5, -3, 2), axis=(0, 1, 2))
    symmetry = transform(moved, SETTINGS)
    assert np.unravel_index(symmetry.argmax(), symmetry.shape) == (20, 12, 17)


@pytest.mark.parametrize("strictness", [1.0, 2.0, 3.0])
def test_a_tube_and_a_plane_answer_less_the_stricter_the_less(strictness):
    settings = Settings((2,), strictness, 0.05)
    one = transform(ball(), settings)[MIDDLE]
    through = transform(tube(), settings)[MIDDLE] / one
    plane = transform(soft(np.abs(AT[0]), 2.0), settings)[MIDDLE] / one
    assert plane < through < 0.8
    assert through < 0.7 or strictness < 2


def test_every_rim_voxel_votes_for_the_centre():
    away = AT / np.maximum(np.sqrt((AT**2).sum(axis=0)), 1e-9)  # the gradient of a cone: 1 everywhere, away from the middle
    count, strength = votes(away, 2, 0.5)
    assert count[MIDDLE] == shell_vox(2) == pytest.approx(strength[MIDDLE])


def test_votes_beyond_the_edge_are_lost_and_flat_pictures_are_silent():
    slope = np.stack([np.ones((4, 4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 4))])
    count, _ = votes(slope, 2, 0.5)  # all vote two voxels down along i: half of them leave the picture
    assert count.sum() == 32 and not count[2:].any()
    assert not transform(np.full((9, 9, 9), 3.0), SETTINGS).any()


def test_many_settings_at_once_are_the_same_as_one_by_one():
    image = ball() + np.random.default_rng(0).normal(0, 0.05, ball().shape)
    found = dict(transforms(image, GRID))
    assert set(found) == set(GRID)
    for settings in (GRID[0], GRID[-1]):
        np.testing.assert_allclose(found[settings], transform(image, settings), atol=1e-12)
    assert gradient_of(image).shape == (3, *image.shape)


def test_roundness_tells_a_ball_from_a_tube():
    assert roundness_of(ball())[MIDDLE] > 0.9
    assert roundness_of(tube())[MIDDLE] < 0.05
    assert roundness_of(1 - ball())[MIDDLE] == 0


def test_spots_lie_at_dark_balls_in_the_brain_in_mm():
    rng = np.random.default_rng(0)
    data = 1 + rng.normal(0, 0.02, (60, 60, 60))
    data[20:24, 30:34, 40:44], data[50:54, 50:54, 50:54] = 0.2, 0.2
    mask = np.zeros_like(data)
    mask[10:45, 10:50, 10:55] = 1  # the second ball is outside it
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-30, 10, 5)
    preprocess = Preprocess(spacing_mm=(1, 1, 2), multiple_vox=(4, 4, 4), foreground_fraction=0.15, clip=20)
    brain = Volume(mask.astype(np.float32), affine)
    found = spots(Volume(data.astype(np.float32), affine), brain, preprocess, "a", [SETTINGS])[0]
    away = np.linalg.norm(found.centres_mm - world_from_index(np.array([[21.5, 31.5, 41.5]]), affine), axis=1)
    assert away[0] < 1 and (away[1:] > 3).all()
    assert found.features.shape == (len(found.centres_mm), 5) and found.features[0, 3] > found.features[1:, 3].mean()
    with pytest.raises(InputError, match="an empty one"):
        spots(Volume(data.astype(np.float32), affine), Volume(0 * brain.data, affine), preprocess, "a", [SETTINGS])


def test_the_regression_finds_the_feature_that_decides():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (200, 3))
    positive = features[:, 1] + rng.normal(0, 0.3, 200) > 1
    weights = fit(features, positive)
    score = weights.score(features)
    assert np.argmax(np.abs(weights.weight)) == 1 and score[positive].mean() > 0.8 > 0.3 > score[~positive].mean()
    alone = fit(features, np.zeros(200, dtype=bool)).score(features)
    assert np.array_equal(np.argsort(alone), np.argsort(features[:, 0]))


def test_spheres_are_as_large_as_marked_in_mm_and_never_empty():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    mask = sphere_mask((20, 20, 10), affine, np.array([[10.0, 10, 10]]), np.array([3.0]))
    assert mask[13, 10, 5] and not mask[14, 10, 5] and mask[10, 10, 6] and not mask[10, 10, 7]
    assert mask.sum() == 29 + 2 * 21  # voxels within 3 of the middle in its slice, within sqrt(9 - 4) in the next ones
    assert sphere_mask((20, 20, 10), affine, np.array([[10.4, 10.4, 10.9]]), np.array([0.1])).sum() == 1
    assert not sphere_mask((20, 20, 10), affine, np.zeros((0, 3)), np.zeros(0)).any()
    assert not sphere_mask((20, 20, 10), affine, np.array([[90.0, 0, 0]]), np.array([3.0])).any()
    turned = affine @ np.array([[0, -1, 0, 19], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert sphere_mask((20, 20, 10), turned, np.array([[10.0, 10, 10]]), np.array([3.0])).sum() == mask.sum()


def test_components_are_scored_by_their_highest_voxel_best_first():
    said = np.full((10, 10, 6), -9, dtype=np.float32)
    said[1:4, 1, 1] = (0.5, 1.0, 0.5)
    said[7, 7, 4], said[8, 8, 5], said[5, 1, 1] = 3.0, 0.5, -0.5
    centres, scores = components(said, AFFINE, 0.5)
    assert scores.tolist() == pytest.approx([0.875, 0.75])  # (1 + 3/4) / 2; corners touch: 7,7,4 and 8,8,5 are one
    np.testing.assert_allclose(centres, [[7.5, 7.5, 9.0], [2, 1, 2]])
    assert components(said, AFFINE, 0.7)[0].shape == (2, 3) and components(said, AFFINE, 0.99)[0].shape == (0, 3)


def test_findings_beyond_what_a_probability_can_tell_apart_keep_their_order():
    said = np.full((10, 10, 6), -9, dtype=np.float32)
    said[1, 1, 1], said[5, 5, 3], said[8, 8, 5] = 18.0, 90.0, 40.0  # the sigmoid of each is 1.0 in float32
    centres, scores = components(said, AFFINE, 0.1)
    np.testing.assert_allclose(centres[:, 0], [5, 8, 1])
    assert 1 > scores[0] > scores[1] > scores[2] > 0.9


def test_loss_by_hand():
    logits, mask = torch.tensor([[[[[0.0, 0.0]]]]]), torch.tensor([[[[[1.0, 0.0]]]]])
    # p = .5 twice: Dice (2 * .5 + 1) / (1 + 1 + 1), cross-entropy ln 2, the sphere's counted 100 times.
    assert dice_and_cross_entropy(logits, mask).item() == pytest.approx(1 - 2 / 3 + 101 / 2 * np.log(2))


@pytest.mark.parametrize("warped", [0.0, 1.0])
def test_patches_and_masks_stay_together(warped):
    settings = UNET.model_copy(update={"lesion_fraction": 1.0, "warped_fraction": warped})
    sampler, sizes = SegmentationSampler([example([(10, 12, 16)])], settings), set()
    for seed in range(10):
        images, masks = sampler.batch(np.random.default_rng(seed))
        assert images.shape == masks.shape == (2, 1, 16, 16, 8) and set(np.unique(masks)) == {0, 1}
        assert np.median(images[masks == 1]) < -1.5 < np.median(images[masks == 0])
        sizes |= set(masks.sum(axis=(1, 2, 3, 4)).tolist())
    assert sizes == {9} if not warped else len(sizes) > 2  # radius 1.5 mm: 3 x 3 voxels of one slice, but turned and scaled


@pytest.mark.ci
def test_segmentation_learns_dark_spots_and_its_answer_is_in_mm():
    model = train([example([(10, 12, 16), (22, 8, 20)])], UNET.model_copy(update={"steps": 150}), seed=0)
    unseen, network = example([(20, 8, 12)]), as_callable(model, torch.device("cpu"))
    centres, scores = components(logits(unseen.prepared, network), AFFINE, 0.5)
    assert np.linalg.norm(centres[0] - (20, 8, 12)) <= 3 and scores[0] > 0.5


def test_the_threshold_is_the_one_that_finds_most_and_all_are_told():
    by_threshold = [[(0, 0.9)], [(50, 0.95), (0, 0.9), (20, 0.4)], [(0, 0.9), (20, 0.4)]]  # two microbleeds; the second late
    found = {t: [scan([lesion(0), lesion(20)], own)] for t, own in zip(THRESHOLDS, by_threshold, strict=True)}
    chosen = best_threshold(found, 3.0, 2.0)
    assert chosen == {"threshold": 0.1, "mean_sensitivity": {"0.5": 0.5, "0.3": 0.4, "0.1": 1.0}}  # 1/8, 1/4, ... 2
    assert best_threshold({0.5: found[0.1], 0.3: found[0.1]}, 3.0, 2.0)["threshold"] == 0.5
