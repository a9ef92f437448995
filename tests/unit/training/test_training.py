"""Training's parts on inputs small enough to check by hand, and a network that must learn what it is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmb_models.files import read_json
from cmb_models.networks.cnn import PatchClassifier, Score
from cmb_models.networks.unet import Heatmap, build_unet
from cmb_models.runtime.torch import as_callable
from cmb_models.training.data import samplers
from cmb_models.training.data.brain_mask import BRAIN, BrainMask, find_brain_mask
from cmb_models.training.data.examples import load_examples, save_example
from cmb_models.training.data.hard_negatives import mine_hard_negatives
from cmb_models.training.data.intensity import NOISE, flip_and_turn, vary_intensity
from cmb_models.training.data.samplers import CMB, UNKNOWN, CnnSampler, LabelledCandidates, UnetSampler, kind_of, label_candidates
from cmb_models.training.final import RECIPE, load_weights, save_weights
from cmb_models.training.loop import generator, train_cnn, train_unet
from cmb_models.training.losses import centre_heatmap, centre_loss
from tests.support.examples import AFFINE, CNN, LESION_BANK, UNET, example, in_air
from tests.support.refused import refused


def test_heatmap_is_one_at_the_centre_and_falls_with_mm_not_voxels():
    heat = centre_heatmap((20, 20, 10), AFFINE, np.array([[10.2, 9.9, 8.1]]), sigma_mm=1.5)
    assert heat[10, 10, 4] == 1
    assert heat[12, 10, 4] == pytest.approx(np.exp(-4 / 4.5))
    assert heat[10, 10, 5] == heat[12, 10, 4]  # one slice is 2 mm
    assert heat[15, 10, 4] == 0  # 5 mm is beyond 3 sigma
    assert centre_heatmap((4, 4, 4), AFFINE, np.zeros((0, 3)), 1.5).sum() == 0
    assert centre_heatmap((4, 4, 4), AFFINE, np.array([[9.0, 0, 0]]), 1.5).sum() == 0


def test_loss_by_hand():
    # One centre with p = .5: .25 * ln 2; one background voxel with p = .5: .25 * ln 2; one ignored voxel. One centre.
    logits, target = torch.zeros(1, 1, 1, 1, 3), torch.tensor([[[[[1.0, 0.0, 0.0]]]]])
    weight = torch.tensor([[[[[1.0, 1.0, 0.0]]]]])
    assert centre_loss(logits, target, weight, 2, 4).item() == pytest.approx(2 * 0.25 * np.log(2))
    # A voxel beside a centre (target .5) is spared by (1 - .5)^4.
    near = torch.tensor([[[[[1.0, 0.5, 0.0]]]]])
    assert centre_loss(logits, near, weight, 2, 4).item() == pytest.approx((1 + 0.5**4) * 0.25 * np.log(2))


def test_flips_move_image_and_target_together():
    index = np.arange(4 * 4 * 2, dtype=np.float32).reshape(4, 4, 2)
    for seed in range(20):
        image, target = flip_and_turn([index, 2 * index], np.random.default_rng(seed))
        assert np.array_equal(target, 2 * image) and set(image.ravel()) == set(index.ravel())
    different = {flip_and_turn([index], np.random.default_rng(s))[0].tobytes() for s in range(60)}
    assert len(different) == 16  # 8 flips times the exchange of i and j


def test_intensity_changes_are_replayed_by_the_seed_and_leave_the_input():
    image = np.zeros((8, 8, 4), dtype=np.float32)
    first, again = (vary_intensity(image, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again) and first.std() > 0 and not image.any()


def test_noise_is_mostly_little_and_at_times_much():
    flat = np.zeros((16, 16, 8), dtype=np.float32)
    changed = [np.diff(vary_intensity(flat, np.random.default_rng(seed)), axis=0) for seed in range(200)]
    added = [d.std() / np.sqrt(2) for d in changed]  # neighbours differ by noise; offset, and nearly all of the ramp, cancel
    assert np.median(added) < 0.35 * NOISE and 0.9 * NOISE < np.max(added) < 1.1 * NOISE


def test_unet_patches_hold_their_lesion_and_ignore_possible_ones():
    sampler = UnetSampler([example([(10, 12, 16)])], UNET.model_copy(update={"lesion_fraction": 1.0}))
    for seed in range(10):
        images, targets, weights = sampler.batch(np.random.default_rng(seed))
        assert images.shape == targets.shape == weights.shape == (2, 1, 16, 16, 8)
        for image, target in zip(images[:, 0], targets[:, 0], strict=True):
            assert (target == 1).sum() == 1 and image[target == 1][0] < -1
        assert weights.min() == 1
    doubtful = example([(10, 12, 16), (22, 22, 16)], ["cmb", "possible"])
    weights = np.stack([UnetSampler([doubtful], UNET).batch(np.random.default_rng(s))[2] for s in range(10)])
    assert set(np.unique(weights)) == {0.0, 1.0}


def test_unet_sampler_refuses_scans_without_cmbs():
    with refused("training-too-few"):
        UnetSampler([example([])], UNET)


def test_a_patch_larger_than_the_scan_is_filled():
    small = example([(4, 4, 4)], shape=(10, 10, 6))
    images, targets, _ = UnetSampler([small], UNET).batch(np.random.default_rng(0))
    assert images.shape == (2, 1, 16, 16, 8) and np.isfinite(images).all() and targets.max() <= 1


def test_candidates_are_labelled_by_distance_and_possible_ones_dropped():
    marked = example([(10, 10, 10), (20, 20, 20)], ["cmb", "possible"])
    index = np.array([[10, 12, 5], [10, 14, 5], [20, 20, 10], [2, 2, 2]])  # 2 mm, 4 mm off the CMB; the possible one; far away
    labelled = label_candidates(marked, index, match_mm=3)
    assert labelled.index_vox.tolist() == [[10, 12, 5], [10, 14, 5], [2, 2, 2], [10, 10, 5]]
    assert labelled.positive.tolist() == [True, False, False, True]
    nothing = label_candidates(marked, np.zeros((0, 3), dtype=np.int64), match_mm=3)
    assert nothing.positive.tolist() == [True]


def test_a_candidate_within_a_large_lesion_belongs_to_it():
    """4 mm off the centre of one 9 mm wide: as evaluation counts it."""
    marked = example([(10, 10, 10)])
    marked = replace(marked, annotations=(replace(marked.annotations[0], diameter_mm=9.0),))
    assert label_candidates(marked, np.array([[10, 14, 5], [10, 16, 5]]), match_mm=3).positive.tolist() == [True, False, True]


def test_every_planted_lesion_has_its_peak_in_the_patch(dark_lesion_bank):
    """A patch that is dark somewhere holds a inserted lesion, and is taught one: half lesions at its border would be untaught."""
    quiet = replace(example([], shape=(80, 80, 60)), annotations=example([(64, 64, 104)]).annotations)  # marked, not drawn
    quiet.prepared.image[0, 0, 0] = -3  # what air is
    quiet = replace(quiet, lesion_bank=LESION_BANK)
    sampler = UnetSampler([quiet], UNET.model_copy(update={"inserted_per_patch": 1.0, "lesion_fraction": 0.0}))
    dark = 0
    for seed in range(150):
        images, targets, _ = sampler.batch(np.random.default_rng(seed))
        for image, target in zip(images[:, 0], targets[:, 0], strict=True):
            if (image < -1.2).sum() > 3:
                dark += 1
                assert (target == 1).any()
    assert dark > 25


def test_planted_mimics_are_in_the_picture_and_not_in_the_target(dark_lesion_bank):
    quiet = example([], shape=(80, 80, 60))
    elsewhere = (replace(a, z_mm=400.0) for a in example([(64, 64, 104)]).annotations)  # out of view of every patch
    marked = replace(quiet, annotations=tuple(elsewhere), lesion_bank=LESION_BANK)
    marked.prepared.image[0, 0, 0] = -3
    sampler = UnetSampler([marked], UNET.model_copy(update={"inserted_mimics_per_patch": 2.0, "lesion_fraction": 0.0}))
    batches = [sampler.batch(np.random.default_rng(seed)) for seed in range(40)]
    darker = sum(int((image < -0.7).sum() > 5) for images, *_ in batches for image in images)
    assert darker > 20 and not any(targets.any() for _, targets, _ in batches)


def test_stage_2_plants_microbleeds_among_the_positives_and_mimics_among_the_negatives(dark_lesion_bank, monkeypatch):
    monkeypatch.setattr(samplers, "NEARBY_SHARE", 1.0)  # all in the middle, where no patch sees the air
    plain = in_air(example([], shape=(80, 80, 60)))
    group = LabelledCandidates(
        replace(plain, lesion_bank=LESION_BANK), np.array([[20, 20, 15], [30, 30, 15]]), np.array([CMB, UNKNOWN])
    )
    all_planted = {"inserted_fraction": 1.0, "inserted_mimic_fraction": 1.0}
    patches, kinds = CnnSampler([group], CNN.model_copy(update=all_planted)).batch(np.random.default_rng(0))
    darkest = patches.min(axis=(1, 2, 3, 4))
    assert darkest[kinds == CMB].max() < -1.7 < darkest[kinds != CMB].min() <= darkest[kinds != CMB].max() < -0.6
    assert set(kinds[kinds != CMB]) == {kind_of("mimic:iron")}


class Darkness(torch.nn.Module):
    """A stage 1 that takes every dark voxel for a microbleed."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(-4.0))

    def forward(self, image):
        return self.scale * image - 6


def test_look_alikes_are_what_is_found_and_not_marked():
    spots = [(10, 12, 16), (25, 8, 8), (20, 24, 24)]
    first = example(spots)
    first = replace(
        first, annotations=(first.annotations[0], replace(first.annotations[1], label="possible"))
    )  # the third is neither
    model = Darkness().train()
    found = mine_hard_negatives(model, [example([]), first], np.random.default_rng(0))
    assert found.tolist() == [[1, 20, 24, 12]] and found.dtype == np.int64 and model.training
    assert mine_hard_negatives(model, [example([])], np.random.default_rng(0)).shape == (0, 4)


def test_hard_patches_hold_a_look_alike():
    scan = example([(16, 16, 16)], shape=(64, 64, 32))
    sampler = UnetSampler([scan], UNET.model_copy(update={"hard_negative_fraction": 1.0, "lesion_fraction": 0.0}))
    scan.prepared.image[50, 50, 20] = 9.0  # stands for the look-alike: bright, so that it is seen among noise
    usual = sum((sampler.batch(np.random.default_rng(seed))[0] > 5).any(axis=(1, 2, 3, 4)).sum() for seed in range(20))
    sampler.hard = np.array([[0, 50, 50, 20]])
    for seed in range(20):
        assert (sampler.batch(np.random.default_rng(seed))[0] > 5).any(axis=(1, 2, 3, 4)).all()
    assert usual < 20
    other = UnetSampler([scan], sampler.settings)
    other.restore(sampler.state())
    assert np.array_equal(other.hard, sampler.hard)


def test_planting_without_plants_is_refused():
    with refused("prepared-missing"):
        UnetSampler([example([(10, 12, 16)])], UNET.model_copy(update={"inserted_per_patch": 0.5}))


def test_cnn_batches_have_the_share_of_positives():
    image = example([(10, 10, 10)])
    index = np.array([[10, 10, 5], [20, 20, 5], [5, 25, 9]])
    sampler = CnnSampler([LabelledCandidates(image, index, np.array([CMB, UNKNOWN, UNKNOWN]))], CNN)
    patches, kinds = sampler.batch(np.random.default_rng(0))
    assert patches.shape == (16, 1, 8, 8, 4) and (kinds == CMB).sum() == 8
    assert patches[kinds == CMB].min(axis=(1, 2, 3, 4)).max() < -1 < patches[kinds != CMB].min()
    with refused("training-too-few"):
        CnnSampler([LabelledCandidates(image, index[:1], np.array([CMB]))], CNN)


def test_unet_learns_dark_spots_and_the_seed_fixes_the_result():
    sampler = UnetSampler([example([(10, 12, 16)])], UNET)
    model = train_unet(sampler, seed=0)
    unseen = example([(20, 8, 12)])
    heat = as_callable(Heatmap(model), torch.device("cpu"))(unseen.prepared.image[None, None])[0, 0]
    assert np.linalg.norm((np.array(np.unravel_index(heat.argmax(), heat.shape)) - (20, 8, 6)) * (1, 1, 2)) <= 3
    short = [UnetSampler([example([(10, 12, 16)])], UNET.model_copy(update={"steps": 10})) for _ in range(2)]
    first, again = (train_unet(sampler, seed=0).state_dict() for sampler in short)
    assert all(torch.equal(v, again[k]) for k, v in first.items())


def test_every_step_and_purpose_has_numbers_of_its_own():
    drawn = [generator(*numbers).random() for numbers in ((3, 0), (3, 1), (4, 0), (3, 0, 1), (3, 1, 1), (0, 3))]
    assert len(set(drawn)) == len(drawn) and generator(3, 1).random() == drawn[1]


def test_cnn_learns_dark_spots(tmp_path):
    image = example([(10, 10, 10), (22, 8, 20)])
    index = np.array([[10, 10, 5], [22, 8, 10], [25, 25, 5], [5, 25, 9], [26, 14, 3]])
    group = LabelledCandidates(image, index, np.array([CMB, CMB, UNKNOWN, UNKNOWN, UNKNOWN]))
    model = train_cnn(CnnSampler([group], CNN), seed=0)
    patches, kinds = CnnSampler([group], CNN).batch(np.random.default_rng(5))
    score = as_callable(Score(model), torch.device("cpu"))(patches)
    assert score.shape == (16,) and score[kinds == CMB].min() > score[kinds != CMB].max()
    save_weights(tmp_path, UNET, CNN, build_unet(UNET.channels, UNET.strides), model, [example([])])
    assert read_json(tmp_path / RECIPE)["scans"] == {"a": "0" * 64} and "gate" not in read_json(tmp_path / RECIPE)
    save_weights(tmp_path, UNET, CNN, build_unet(UNET.channels, UNET.strides), model, [example([])], {"min_sensitivity": 0.6})
    assert read_json(tmp_path / RECIPE)["gate"] == {"min_sensitivity": 0.6}
    *_, loaded = load_weights(tmp_path)
    # Not equal to the bit: the loaded weights lie in another memory order, so sums are taken in another order.
    np.testing.assert_allclose(as_callable(Score(loaded), torch.device("cpu"))(patches), score, atol=1e-6)


def test_score_is_the_same_for_a_mirrored_patch():
    score = Score(PatchClassifier((4,), 0.0)).eval()
    patches = torch.randn(3, 1, 8, 8, 4)
    with torch.no_grad():
        assert torch.allclose(score(patches), score(patches.flip(2)), atol=1e-6)
        assert not torch.allclose(score.classifier(patches), score.classifier(patches.flip(2)), atol=1e-4)


def test_nan_loss_is_told():
    broken = example([(10, 10, 10)])
    broken.prepared.image[:] = np.nan
    with pytest.raises(FloatingPointError, match="step 0: lower the learning rate"):
        train_unet(UnetSampler([broken], UNET), seed=0)


@pytest.mark.parametrize(("channels", "strides"), [((8, 16, 16), (1, 1, 2)), ((8, 16, 32, 32), (1, 2, 2, 1))])
def test_networks_keep_their_shapes(channels, strides):
    heat = torch.sigmoid(build_unet(channels, strides).eval()(torch.zeros(1, 1, 16, 24, 8)))
    assert heat.shape == (1, 1, 16, 24, 8)
    assert 0.005 < heat.mean() < 0.03  # nearly no voxel is a centre before training; .5 without the prior
    assert PatchClassifier(channels, 0.1).eval()(torch.zeros(5, 1, 20, 20, 10)).shape == (5,)
    assert PatchClassifier(channels, 0.1, 2).eval()(torch.zeros(5, 2, 20, 20, 10)).shape == (5,)


def test_only_the_first_level_keeps_to_its_slices():
    kernels = [m.kernel_size for m in build_unet((8, 16, 16), (1, 2, 2)).modules() if isinstance(m, torch.nn.Conv3d)]
    assert kernels[:2] == [(3, 3, 1)] * 2
    assert kernels.count((3, 3, 1)) == 2 and kernels.count((3, 3, 3)) == 8  # two on the way down and two up, at each other level


def test_examples_round_trip(tmp_path):
    before = example([(10, 12, 16)], ["possible"])
    save_example(tmp_path, before)
    (after,) = load_examples(tmp_path)
    assert (after.key, after.subject, after.annotations, after.prepared.shape) == ("a", "s", before.annotations, (32, 32, 16))
    assert np.array_equal(after.prepared.image, before.prepared.image) and np.array_equal(after.prepared.affine, AFFINE)
    assert np.array_equal(after.brain.bits, find_brain_mask(before.prepared.image, (1, 1, 2), before.prepared.air).bits)
    (tmp_path / "a.brain.npy").unlink()
    with refused("prepared-outdated"):
        load_examples(tmp_path)


def test_samplers_take_the_brain_that_was_found_in_preparation():
    """One that holds a single place: all patches without a lesion lie about it."""
    scan = example([(16, 16, 16)], shape=(64, 64, 32))
    scan.prepared.image[50, 50, 20] = 9.0  # bright, so that it is seen among noise
    bits = np.zeros((32, 32, 32), np.uint8)
    bits[25, 25, 20] = BRAIN
    sampler = UnetSampler([replace(scan, brain=BrainMask(bits))], UNET.model_copy(update={"lesion_fraction": 0.0}))
    for seed in range(20):
        assert (sampler.batch(np.random.default_rng(seed))[0] > 5).any(axis=(1, 2, 3, 4)).all()
