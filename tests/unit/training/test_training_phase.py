"""Stage 2 trained with phase as its second channel: patches, synthetic lesions, and what a network learns of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cmb_models.files import read_json
from cmb_models.networks.cnn import Score
from cmb_models.networks.unet import build_unet
from cmb_models.runtime.torch import as_callable
from cmb_models.training.data.examples import Example, load_examples, save_example
from cmb_models.training.data.intensity import vary_phase
from cmb_models.training.data.samplers import CMB, UNKNOWN, CnnSampler, LabelledCandidates
from cmb_models.training.final import RECIPE, load_weights, save_weights
from cmb_models.training.loop import train_cnn
from cmb_models.training.synthesis.insertion import LesionBank
from tests.support.examples import BALL, CNN, UNET, example, in_air
from tests.support.refused import refused


def with_phase(scan: Example, phase: np.ndarray) -> Example:
    return replace(scan, prepared=replace(scan.prepared, phase=phase), phase_sha256="1" * 64)


def test_stage_2_patches_hold_picture_and_phase_of_one_place_turned_alike():
    """Phase 2 where the picture is dark, else 0: so it is in every patch, and not all patches lie the same way."""
    scan = example([(10, 10, 10)])
    scan = with_phase(scan, np.where(scan.prepared.image < -1.5, 2, 0).astype(np.float32))
    sampler = CnnSampler([LabelledCandidates(scan, np.array([[10, 11, 5], [20, 20, 5]]), np.array([CMB, UNKNOWN]))], CNN)
    patches, kinds = sampler.batch(np.random.default_rng(0))
    assert sampler.channels == 2 and patches.shape == (16, 2, 8, 8, 4) and patches.dtype == np.float32
    for swi, phase in patches[kinds == CMB]:
        inside, outside = swi[phase > 1], swi[phase < 1]
        assert len(inside) > 3 and inside.max() < -1 < outside.min() + 0.8
    assert np.abs(patches[kinds != CMB][:, 1]).max() < 0.6  # noise alone
    assert len({np.argwhere(p[1] > 1).tobytes() for p in patches[kinds == CMB]}) > 3


def test_phase_is_left_out_of_as_many_patches_as_asked_for():
    scan = with_phase(example([(10, 10, 10)]), np.ones((32, 32, 16), np.float32))
    group = LabelledCandidates(scan, np.array([[10, 10, 5], [20, 20, 5]]), np.array([CMB, UNKNOWN]))
    for dropout, low, high in ((0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)):
        sampler = CnnSampler([group], CNN.model_copy(update={"phase_dropout": dropout}))
        batches = np.concatenate([sampler.batch(np.random.default_rng(seed))[0] for seed in range(20)])
        assert low <= np.mean(~batches[:, 1].any(axis=(1, 2, 3))) <= high
        assert batches[:, 0].any(axis=(1, 2, 3)).all()


def test_varied_phase_stays_wrapped_and_about_where_it_was():
    phase = np.full((8, 8, 4), 3.1, np.float32)
    varied = np.stack([vary_phase(phase, 0.0, np.random.default_rng(seed)) for seed in range(40)])
    assert varied.dtype == np.float32 and np.abs(varied).max() <= np.float32(np.pi) and (varied < 0).any()
    assert np.cos(varied - phase).min() > np.cos(0.15 * 3.1 + 6 * 0.1)  # 15 % of scale and six times the noise
    assert (phase == np.float32(3.1)).all()


def test_planted_phase_tells_microbleeds_from_mimics(dark_lesion_bank):
    """Plants alike in the picture, opposite in phase."""
    share = np.where(BALL, 0.2, 1).astype(np.float32)[None].repeat(2, 0)
    turned = np.where(BALL, 1.0, 0).astype(np.float32)
    lesion_bank = LesionBank(
        share, np.zeros((2, 3)), np.array(["cmb", "mimic:calcification"]), np.full(2, 4.0), np.stack([turned, -turned])
    )
    plain = in_air(example([], shape=(80, 80, 60)))
    group = LabelledCandidates(
        replace(with_phase(plain, np.zeros((80, 80, 60), np.float32)), lesion_bank=lesion_bank),
        np.array([[20, 20, 15], [30, 30, 15]]),
        np.array([CMB, UNKNOWN]),
    )
    settings = CNN.model_copy(update={"inserted_fraction": 1.0, "inserted_mimic_fraction": 1.0})
    patches, kinds = CnnSampler([group], settings).batch(np.random.default_rng(0))
    inside = np.array([phase[(swi < -1) & (np.abs(phase) > 0.3)].mean() for swi, phase in patches])  # the air in view has none
    assert inside[kinds == CMB].min() > 0.5 and inside[kinds != CMB].max() < -0.5
    without = replace(group.example, lesion_bank=replace(lesion_bank, phase=None))
    with refused("prepared-missing"):
        CnnSampler([replace(group, example=without)], settings)


def test_cnn_learns_what_phase_alone_tells(tmp_path):
    """Two kinds of spots that are one picture; also saved and loaded."""
    image = example([(10, 10, 10), (22, 8, 20), (8, 24, 8), (24, 24, 24)])
    dark = np.where(image.prepared.image < -1, 1.5, 0).astype(np.float32)
    dark[16:] *= -1
    image = with_phase(image, dark)
    index = np.array([[10, 10, 5], [8, 24, 4], [22, 8, 10], [24, 24, 12]])
    group = LabelledCandidates(image, index, np.array([CMB, CMB, UNKNOWN, UNKNOWN]))
    model = train_cnn(CnnSampler([group], CNN.model_copy(update={"steps": 120})), seed=0)
    patches, kinds = CnnSampler([group], CNN).batch(np.random.default_rng(5))
    score = as_callable(Score(model), torch.device("cpu"))
    assert score(patches)[kinds == CMB].min() > 0.5 > score(patches)[kinds != CMB].max()
    patches[:, 1] *= -1  # the same pictures, the other phase
    assert score(patches)[kinds == CMB].max() < 0.5 < score(patches)[kinds != CMB].min()
    save_weights(tmp_path, UNET, CNN, build_unet(UNET.channels, UNET.strides), model, [image])
    assert read_json(tmp_path / RECIPE)["phases"] == {"a": "1" * 64}
    *_, loaded = load_weights(tmp_path)
    np.testing.assert_allclose(as_callable(Score(loaded), torch.device("cpu"))(patches), score(patches), atol=1e-6)


def test_examples_with_phase_round_trip(tmp_path):
    save_example(tmp_path, example([(10, 12, 16)]))
    (plain,) = load_examples(tmp_path)
    assert plain.prepared.phase is None and plain.phase_sha256 == ""
    assert {p.name for p in tmp_path.iterdir()} == {"a.npy", "a.brain.npy", "a.json"}
    before = with_phase(plain, np.random.default_rng(0).normal(0, 1, (32, 32, 16)).astype(np.float32))
    save_example(tmp_path, before)
    (after,) = load_examples(tmp_path)
    assert np.array_equal(after.prepared.phase, before.prepared.phase) and after.phase_sha256 == "1" * 64
    assert np.array_equal(after.prepared.image, before.prepared.image)
