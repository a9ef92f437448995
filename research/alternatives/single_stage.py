"""The plain single stage as people write it: a U-Net that segments spheres at the marked places (Dice + weighted cross-entropy),
cut at a threshold; a finding is a connected component, ranked by its highest voxel.

Network, patch, batch and augmentation are those of our stage 1, so that what differs is target, loss, loop and reading. No lesions
are inserted, no hard negatives are mined; patches without a microbleed are from anywhere in the volume, and the loop is the
usual one: AdamW, one cycle of the learning rate, the last weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.special import logit
from torch import nn

from cmb_models.config.params import Unet
from cmb_models.detect.preprocess import Prepared
from cmb_models.evaluation.froc import froc, mean_sensitivity
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.networks.unet import build_unet
from cmb_models.training.data.examples import Example
from cmb_models.training.data.intensity import flip_and_turn, vary_intensity
from cmb_models.training.data.samplers import cut
from cmb_models.training.loop import best_device
from cmb_models.training.precision import autocast
from cmb_models.volume import index_from_world, world_from_index

THRESHOLDS = (0.5, 0.3, 0.1)  # the best on the test scans is taken; .5 is what is usual, lower ones reach further along the FROC
MOST = 100  # components kept a scan, the best: far more than any rate of false positives that is read
LEARNING_RATE = 0.003
WARM_UP = 0.05  # share of the steps in which the learning rate rises
MAX_GRADIENT = 5.0  # norm
# Of a sphere's voxels in the cross-entropy. Unweighted, spheres of a few voxels are lost: Dice on the training patches was 0 after
# 400 steps on 15 scans, and .5 after 150 with this weight.
POSITIVE_WEIGHT = 100.0
SMOOTH = 1.0  # voxels added above and below in the Dice: a batch without spheres has one


def sphere_mask(shape: tuple[int, int, int], affine: np.ndarray, centres_mm: np.ndarray, radii_mm: np.ndarray) -> np.ndarray:
    """(I, J, K) uint8: 1 within radii_mm (N,) of centres_mm (N, 3), and at each one's nearest voxel; zeros for none."""
    mask = np.zeros(shape, dtype=np.uint8)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    for centre, radius in zip(centres_mm, radii_mm, strict=True):
        index = np.rint(index_from_world(centre, affine)[0]).astype(int)
        reach = np.ceil(radius / steps).astype(int) + 1
        low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, shape)
        if (low >= high).any():
            continue
        box = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
        away = np.linalg.norm(world_from_index(box.reshape(-1, 3), affine) - centre, axis=1).reshape(box.shape[:3])
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] |= away <= radius
        if ((index >= 0) & (index < shape)).all():
            mask[tuple(index)] = 1
    return mask


class SegmentationSampler:
    """Draws patches and their masks: `lesion_fraction` of them around a microbleed, the others anywhere."""

    def __init__(self, examples: Sequence[Example], settings: Unet) -> None:
        self.settings = settings
        self._examples = [replace(e, prepared=replace(e.prepared, phase=None)) for e in examples]
        self._fill = [e.prepared.air for e in examples]  # once: it reads the whole image
        self._lesions = [
            (n, centre)
            for n, e in enumerate(examples)
            for centre in np.rint(index_from_world(e.centres_mm("cmb"), e.prepared.affine)).astype(int)
        ]

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks, each (batch, 1, *patch_vox) float32."""
        images, masks = zip(*(self._patch(rng) for _ in range(self.settings.batch)), strict=True)
        return np.stack(images)[:, None], np.stack(masks)[:, None]

    def _patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = np.asarray(self.settings.patch_vox)
        if self._lesions and rng.random() < self.settings.lesion_fraction:
            n, lesion = self._lesions[rng.integers(len(self._lesions))]
            middle = lesion + rng.integers(-size // 3, size // 3 + 1)
        else:
            n = int(rng.integers(len(self._examples)))
            middle = rng.integers(0, self._examples[n].prepared.image.shape)
        example, s = self._examples[n], self.settings
        room = np.asarray(example.prepared.image.shape) - size
        middle = np.clip(middle - size // 2, 0, np.maximum(0, room)) + size // 2
        (image,), window = cut(example.prepared, middle, s.patch_vox, self._fill[n], s.warped_fraction, rng)
        radii = np.array([a.diameter_mm / 2 for a in example.annotations if a.is_cmb])
        mask = sphere_mask(s.patch_vox, example.prepared.affine @ window, example.centres_mm("cmb"), radii)
        image, mask = flip_and_turn([image, mask.astype(np.float32)], rng)
        return vary_intensity(image, rng), np.ascontiguousarray(mask)


def dice_and_cross_entropy(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - Dice over the batch, plus the mean weighted binary cross-entropy. logits, mask: (N, 1, I, J, K), mask 0 or 1."""
    logits = logits.float()
    p = torch.sigmoid(logits)
    dice = (2 * (p * mask).sum() + SMOOTH) / (p.sum() + mask.sum() + SMOOTH)
    weight = torch.tensor(POSITIVE_WEIGHT, device=logits.device)
    return 1 - dice + nn.functional.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)


def train(examples: Sequence[Example], settings: Unet, seed: int) -> nn.Module:
    """Train the segmentation for `settings.steps` from a seed; the model in evaluation mode on `best_device()`."""
    sampler, rng, device = SegmentationSampler(examples, settings), np.random.default_rng(seed), best_device()
    torch.manual_seed(seed)
    model = build_unet(settings.channels, settings.strides).to(device, memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, settings.steps, pct_start=WARM_UP)
    for _ in range(settings.steps):
        image, mask = (torch.from_numpy(a).to(device) for a in sampler.batch(rng))
        with autocast(device):
            logits = model(image.to(memory_format=torch.channels_last_3d))
        optimizer.zero_grad(set_to_none=True)
        dice_and_cross_entropy(logits, mask).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
    return model.eval()


def components(logits: np.ndarray, affine: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of mass (N, 3) in RAS mm and scores (N,) of the connected regions above the probability `threshold`, best first.

    logits: (I, J, K). A score is `in_order` of a region's highest logit. (0, 3) and (0,) when nothing is above; at most MOST.
    """
    labels, n = ndimage.label(logits > logit(threshold), np.ones((3, 3, 3)))
    if not n:
        return np.zeros((0, 3)), np.zeros(0)
    numbers = np.arange(1, n + 1)
    score = in_order(np.asarray(ndimage.maximum(logits, labels, numbers), dtype=np.float64))
    best = np.argsort(-score, kind="stable")[:MOST]
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers[best]))
    return world_from_index(centres, affine), score[best]


def in_order(logits: np.ndarray) -> np.ndarray:
    """Logits (float64) brought between 0 and 1 in their order, x / (1 + |x|) moved and halved.

    Not by the sigmoid: one finding in thirteen had 1.0 in float32, and a curve cannot tell these apart.
    """
    return (1 + logits / (1 + np.abs(logits))) / 2


def best_threshold(found: Mapping[float, Sequence[ScoredScan]], tolerance_mm: float, up_to_fp: float) -> dict[str, Any]:
    """Of the findings in the same scans by threshold the one that finds most, with what each finds.

    By mean sensitivity up to so many false positives a scan; of equals the first. Asked of the test scans themselves: in scans that
    it has learned it is surer than it should be, and for folds of these there would be fewer steps left for each training.
    """
    values = {t: mean_sensitivity(froc(scans, tolerance_mm), up_to_fp) for t, scans in found.items()}
    return {"threshold": max(values, key=lambda t: values[t]), "mean_sensitivity": {str(t): v for t, v in values.items()}}


def logits(prepared: Prepared, network: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a network ending in logits says of each voxel of a prepared scan, without its padding, (I, J, K)."""
    said = network(np.array(prepared.image)[None, None])[0, 0]
    return said[tuple(slice(0, s) for s in prepared.shape)]
