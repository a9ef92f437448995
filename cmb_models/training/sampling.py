"""Which patches the networks train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cmb_models.config import Cnn, Unet
from cmb_models.detect.patches import cut_channels, cut_patches
from cmb_models.detect.preprocess import Prepared
from cmb_models.errors import InputError
from cmb_models.training.augmentation import flip_and_turn, vary_intensity, vary_phase
from cmb_models.training.examples import Example
from cmb_models.training.losses import centre_heatmap
from cmb_models.training.planting import COARSE, Plants, places_inside, plant
from cmb_models.volume import index_from_world, world_from_index

APART_MM = 8.0  # between a planted lesion and any other: each must keep a maximum of its own
IGNORE_MM = 5.0  # around a lesion marked `possible` nothing is taught: half the largest CMB by definition


def _places(scans: list[Prepared], air: list[float]) -> list[np.ndarray]:
    """Where lesions may be planted in each scan (planting.py), given each one's air: finding it reads the whole image."""
    return [places_inside(scan.image, scan.spacing_mm, a) for scan, a in zip(scans, air, strict=True)]


class UnetSampler:
    """Draws stage-1 batches from prepared scans. Holds each scan's target heatmap only around its few lesions (sparse)."""

    def __init__(self, examples: Sequence[Example], settings: Unet) -> None:
        self.settings = settings
        self.examples = list(examples)
        self._fill = [e.prepared.air for e in self.examples]  # once: it reads the whole image
        self._inside = _places([e.prepared for e in self.examples], self._fill)
        planted = settings.planted_per_patch + settings.planted_mimics_per_patch
        self._plants = [_plants_of(e) if planted else None for e in self.examples]
        self.hard = np.zeros((0, 4), dtype=np.int64)  # scan and voxel of the look-alikes that mining.py found last
        self._lesions = [
            (n, centre)
            for n, e in enumerate(self.examples)
            for centre in np.rint(index_from_world(e.centres_mm("cmb"), e.prepared.affine)).astype(int)
        ]
        if not self._lesions:
            raise InputError(
                "training scans", "at least one marked CMB", "none in any of them", "annotate some, or use fewer folds"
            )

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, target heatmaps and weights, each (batch, 1, *patch_vox) float32."""
        drawn = [self._patch(rng) for _ in range(self.settings.batch)]
        images, targets, weights = (np.stack(column)[:, None] for column in zip(*drawn, strict=True))
        return images, targets, weights

    def state(self) -> dict[str, torch.Tensor]:
        """What later batches depend on besides the generator, for a checkpoint."""
        return {"hard": torch.from_numpy(self.hard.copy())}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state()`."""
        self.hard = state["hard"].numpy().copy()

    def _patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = np.asarray(self.settings.patch_vox)
        if rng.random() < self.settings.lesion_fraction:
            n, lesion = self._lesions[rng.integers(len(self._lesions))]
            # Anywhere in the patch, but a sixth off its border: a lesion at the very edge shows half of itself.
            start = lesion - rng.integers(size // 6, size - size // 6)
        elif len(self.hard) and rng.random() < self.settings.hard_fraction:
            n, *look_alike = self.hard[rng.integers(len(self.hard))]
            start = look_alike - rng.integers(size // 6, size - size // 6)
        else:
            n = rng.integers(len(self.examples))
            start = self._anywhere(n, rng) - rng.integers(size // 6, size - size // 6)
        prepared = self.examples[n].prepared
        start = np.clip(start, 0, np.maximum(0, np.asarray(prepared.image.shape) - size))
        image = cut_patches(prepared.image, (start + size // 2)[None], self.settings.patch_vox, self._fill[n])[0, 0]
        affine = prepared.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        example = self.examples[n]
        cmbs = example.centres_mm("cmb")
        image, planted = self._plant(image, n, start, cmbs, rng)
        target = centre_heatmap(image.shape, affine, np.concatenate([cmbs, planted]), self.settings.sigma_mm)
        possible = centre_heatmap(image.shape, affine, example.centres_mm("possible"), IGNORE_MM / 2)
        weight = np.where((possible > np.exp(-2)) & (target == 0), 0, 1).astype(np.float32)
        image, target, weight = flip_and_turn([image, target, weight], rng)
        return vary_intensity(image, rng), target, weight

    def _anywhere(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """A voxel (3,) of scan `n` inside the head, where all the look-alikes are; of the whole scan if no head is made out."""
        inside = self._inside[n]
        return inside[rng.integers(len(inside))] if len(inside) else rng.integers(0, self.examples[n].prepared.shape)

    def _plant(
        self, image: np.ndarray, n: int, start: np.ndarray, cmbs: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The patch of scan `n` that begins at voxel `start`, with lesions planted, and the planted CMBs' centres (P, 3) in mm."""
        s, plants = self.settings, self._plants[n]
        kinds = np.repeat([True, False], rng.poisson((s.planted_per_patch, s.planted_mimics_per_patch)))
        if plants is None or not len(kinds):
            return image, np.zeros((0, 3))
        prepared, taken, planted = self.examples[n].prepared, cmbs, [np.zeros((0, 3))]
        places = self._inside[n][((self._inside[n] >= start) & (self._inside[n] < start + image.shape)).all(axis=1)]
        places = places[rng.permutation(len(places))[: len(kinds)]]
        for place, cmb in zip(places, kinds[: len(places)], strict=True):
            place = place + rng.uniform(-COARSE / 2, COARSE / 2, 3)
            world = world_from_index(place, prepared.affine).reshape(1, 3)
            if len(taken) and np.linalg.norm(taken - world, axis=1).min() < APART_MM:
                continue
            with_plant, centre = plant(image, place - start, plants, bool(cmb), self._fill[n], rng)
            if np.any(np.rint(centre) < 0) or np.any(np.rint(centre) >= image.shape):
                continue  # its maximum would lie outside
            image, world = with_plant, world_from_index(centre + start, prepared.affine).reshape(1, 3)
            planted += [world] if cmb else []
            taken = np.concatenate([taken, world])
        return image, np.concatenate(planted)


def _plants_of(example: Example) -> Plants:
    if example.plants is None or (example.prepared.phase is not None and example.plants.phase is None):
        remedy = "remove data/prepared and run `dvc repro`, or set all planted_ settings to 0"
        raise InputError(f"training scan {example.key}", "simulated lesions to plant", "none prepared", remedy)
    return example.plants


@dataclass(frozen=True)
class CandidateSet:
    """Stage-1 candidates of one scan as stage-2 examples. index_vox: (N, 3) int64; positive: (N,) bool."""

    example: Example
    index_vox: np.ndarray
    positive: np.ndarray

    @property
    def prepared(self) -> Prepared:
        return self.example.prepared


def label_candidates(example: Example, index_vox: np.ndarray, match_mm: float) -> CandidateSet:
    """Label candidates (N, 3) by the nearest CMB, drop those at a `possible` lesion, and add every CMB's own centre.

    A candidate belongs to a lesion within max(match_mm, the lesion's radius), as in evaluation. The true centres are added so that
    a lesion stage 1 missed still teaches stage 2 what a CMB looks like.
    """
    affine, cmbs = example.prepared.affine, example.centres_mm("cmb")
    world = world_from_index(index_vox, affine)

    def near(label: str) -> np.ndarray:
        reach = np.array([max(match_mm, a.diameter_mm / 2) for a in example.annotations if a.label == label])
        away = np.linalg.norm(world[:, None] - example.centres_mm(label)[None], axis=2)
        return np.any(away <= reach, axis=1)

    positive = near("cmb")
    keep = positive | ~near("possible")
    own = np.rint(index_from_world(cmbs, affine)).astype(np.int64)
    index = np.concatenate([index_vox[keep].reshape(-1, 3), own])
    return CandidateSet(example, index, np.concatenate([positive[keep], np.ones(len(own), dtype=bool)]))


class CnnSampler:
    """Draws stage-2 batches: candidates with a share of positives, shifted a little, flipped and varied.

    channels: C of the patches, 2 where the scans have phase.
    """

    def __init__(self, sets: Sequence[CandidateSet], settings: Cnn) -> None:
        self.settings = settings
        self._sets = list(sets)
        self.channels = 1 if any(group.prepared.phase is None for group in self._sets) else 2
        self._fill = [group.prepared.air for group in self._sets]
        self._inside = _places([g.prepared for g in self._sets], self._fill)
        planted = settings.planted_fraction + settings.planted_mimic_fraction
        self._plants = [_plants_of(group.example) if planted else None for group in self._sets]
        places = [(s, n) for s, group in enumerate(self._sets) for n in range(len(group.index_vox))]
        self._positive = [p for p in places if self._sets[p[0]].positive[p[1]]]
        self._negative = [p for p in places if not self._sets[p[0]].positive[p[1]]]
        if not self._positive or not self._negative:
            raise InputError(
                "stage-2 training candidates",
                "both microbleeds and mimics",
                f"{len(self._positive)} and {len(self._negative)}",
                "train stage 1 longer, lower mine_candidates.candidates.floor or use fewer folds",
            )

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Patches (batch, C, *patch_vox) float32 and labels (batch,) float32, 1 for a microbleed."""
        positives = max(1, round(self.settings.batch * self.settings.positive_fraction))
        labels = np.arange(self.settings.batch) < positives
        patches = np.stack([self._patch(bool(label), rng) for label in labels])
        return patches, labels.astype(np.float32)

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing: batches depend on the generator alone."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to restore."""

    def _patch(self, positive: bool, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < (self.settings.planted_fraction if positive else self.settings.planted_mimic_fraction):
            s = rng.integers(len(self._sets))
            if len(self._inside[s]):
                return self._planted(s, positive, rng)
        pool = self._positive if positive else self._negative
        s, n = pool[rng.integers(len(pool))]
        jitter = np.asarray(self.settings.jitter_vox)
        index = self._sets[s].index_vox[n] + rng.integers(-jitter, jitter + 1)
        return self._vary(self._cut(s, index), rng)

    def _planted(self, s: int, cmb: bool, rng: np.random.Generator) -> np.ndarray:
        """A patch of scan `s` with a simulated CMB or mimic about its centre, off it by as much as a candidate may be."""
        jitter = np.asarray(self.settings.jitter_vox)
        patch = self._cut(s, self._inside[s][rng.integers(len(self._inside[s]))])
        middle = np.asarray(patch.shape[1:]) // 2 + rng.integers(-jitter, jitter + 1)
        return self._vary(plant(patch, middle, self._plants[s], cmb, self._fill[s], rng)[0], rng)

    def _cut(self, s: int, index: np.ndarray) -> np.ndarray:
        """A patch (C, *patch_vox) of scan `s`."""
        return cut_channels(self._sets[s].prepared, index[None], self.settings.patch_vox, self._fill[s])[0]

    def _vary(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        swi, *phase = flip_and_turn([patch], rng)[0]
        return np.stack([vary_intensity(swi, rng), *(vary_phase(p, self.settings.phase_dropout, rng) for p in phase)])
