"""Small settings and example scans that the tests of training share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cmb_models.config.params import Cnn, Unet
from cmb_models.detect.preprocess import Prepared
from cmb_models.io.annotations import Annotation
from cmb_models.training.data.examples import Example
from cmb_models.training.synthesis.insertion import LesionBank

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
UNET = Unet(
    channels=(8, 8, 16),
    strides=(1, 1, 1),
    patch_vox=(16, 16, 8),
    batch=2,
    steps=80,
    learning_rate=0.01,
    weight_decay=0,
    sigma_mm=1.5,
    lesion_fraction=0.5,
    hard_negative_fraction=0,
    hard_negatives_at=(),
    inserted_per_patch=0,
    inserted_mimics_per_patch=0,
    warped_fraction=0,
    focal_gamma=2,
    focal_beta=4,
    frozen_levels=0,
)
CNN = Cnn(
    channels=(8, 16),
    patch_vox=(8, 8, 4),
    batch=16,
    steps=60,
    learning_rate=0.01,
    weight_decay=0,
    dropout=0,
    positive_fraction=0.5,
    inserted_fraction=0,
    inserted_mimic_fraction=0,
    warped_fraction=0,
    kind_weight=0,
    phase_dropout=0,
    jitter_vox=(1, 1, 0),
    match_mm=3,
    frozen_levels=0,
)

BALL = np.linalg.norm((np.stack(np.meshgrid(*map(np.arange, (9, 9, 5)), indexing="ij"), -1) - (4, 4, 2)) * (1, 1, 2), axis=-1) <= 2
LESION_BANK = LesionBank(  # a microbleed that leaves nothing and a mimic that leaves .7, both a third of a voxel off their middle
    np.stack([np.where(BALL, 0, 1), np.where(BALL, 0.7, 1)]).astype(np.float32),
    np.full((2, 3), 0.33),
    np.array(["cmb", "mimic:iron"]),
    np.array([4.0, 4.0]),
)


def example(centres, labels=None, shape=(32, 32, 16), key="a"):
    """Noise with a dark spot at each centre (mm on AFFINE)."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.1, shape).astype(np.float32)
    world = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * (1, 1, 2)
    for centre in centres:
        image -= 3 * np.exp(-((world - centre) ** 2).sum(-1) / (2 * 1.5**2)).astype(np.float32)
    labels = labels or ["cmb"] * len(centres)
    rows = tuple(Annotation("s", "", *map(float, c), 3.0, label, "r") for c, label in zip(centres, labels, strict=True))
    return Example(key, "s", Prepared(image, AFFINE, shape), rows, AFFINE, "0" * 64)


def in_air(head: Example) -> Example:
    """The same with air around, four voxels wide: no plant is near enough to its faces for a patch to reach them."""
    inside = (slice(4, -4),) * 3
    whole = np.full_like(head.prepared.image, -3)
    whole[inside] = head.prepared.image[inside]
    return replace(head, prepared=replace(head.prepared, image=whole))
