"""Which patches the networks train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cmb_models.config.params import Cnn, Unet
from cmb_models.detect.patches import cut_channels
from cmb_models.detect.preprocess import Prepared
from cmb_models.errors import InputError
from cmb_models.io.annotations import MIMIC_PREFIX, Annotation
from cmb_models.networks.cnn import KINDS
from cmb_models.training.data.brain_mask import STEP, BrainMask, find_brain_mask
from cmb_models.training.data.examples import Example
from cmb_models.training.data.intensity import flip_and_turn, vary_intensity, vary_phase
from cmb_models.training.data.spatial import draw_matrix, extent, to_scan, warped_channels
from cmb_models.training.losses import centre_heatmap
from cmb_models.training.synthesis.insertion import NEARBY_MM, NEARBY_SHARE, LesionBank, choose_places, insert_lesion
from cmb_models.volume import index_from_world, world_from_index

APART_MM = 8.0  # between a inserted lesion and any other: each must keep a maximum of its own
NEARBY_TRIES = 5  # for a place next to a candidate: many candidates lie at the skull
IGNORE_MM = 5.0  # around a lesion marked `possible` nothing is taught: half the largest CMB by definition


def _brain_of(example: Example, air: float) -> BrainMask:
    """Where lesions may be inserted in a scan: as its preparation found it, or, for one made by hand, found now."""
    return example.brain or find_brain_mask(example.prepared.image, example.prepared.spacing_mm, air)


class UnetSampler:
    """Draws stage-1 batches from prepared scans. Holds each scan's target heatmap only around its few lesions (sparse)."""

    def __init__(self, examples: Sequence[Example], settings: Unet) -> None:
        self.settings = settings
        self.examples = list(examples)
        self._fill = [e.prepared.air for e in self.examples]  # once: it reads the whole image
        self._places = [_brain_of(e, air).places() for e, air in zip(self.examples, self._fill, strict=True)]
        inserted = settings.inserted_per_patch + settings.inserted_mimics_per_patch
        self._lesion_banks = [_lesion_bank_of(e) if inserted else None for e in self.examples]
        self.hard = np.zeros((0, 4), dtype=np.int64)  # scan and voxel of the last hard negatives: replaced, never changed
        self._marked = [
            {label: index_from_world(e.centres_mm(label), e.prepared.affine) for label in ("cmb", "possible")}
            for e in self.examples
        ]
        self._lesions = [(n, centre) for n, marked in enumerate(self._marked) for centre in np.rint(marked["cmb"]).astype(int)]
        if not self._lesions:
            raise InputError(
                "training-too-few",
                "training scans",
                "at least one marked CMB",
                "none in any of them",
                "annotate some, or use fewer folds",
            )

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, target heatmaps and weights, each (batch, 1, *patch_vox) float32."""
        drawn = [self._patch(rng) for _ in range(self.settings.batch)]
        images, targets, weights = (np.stack(column)[:, None] for column in zip(*drawn, strict=True))
        return images, targets, weights

    def basis(self) -> object:
        """What batches are drawn from besides the generator: another object where it has changed."""
        return self.hard

    def state(self) -> dict[str, torch.Tensor]:
        """What later batches depend on besides the generator, for a checkpoint."""
        return {"hard": torch.from_numpy(self.hard.copy())}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state()`."""
        self.hard = state["hard"].numpy().copy()

    def _patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = np.asarray(self.settings.patch_vox)
        if rng.random() < self.settings.lesion_fraction:
            n, lesion = self._lesions[rng.integers(len(self._lesions))]
            # Anywhere in the patch, but a sixth off its border: a lesion at the very edge shows half of itself.
            start = lesion - rng.integers(size // 6, size - size // 6)
        elif len(self.hard) and rng.random() < self.settings.hard_negative_fraction:
            n, *look_alike = self.hard[rng.integers(len(self.hard))]
            start = look_alike - rng.integers(size // 6, size - size // 6)
        else:
            n = int(rng.integers(len(self.examples)))
            start = self._anywhere(n, rng) - rng.integers(size // 6, size - size // 6)
        prepared = replace(self.examples[n].prepared, phase=None)  # which stage 1 does not see
        spacing = np.asarray(prepared.spacing_mm)
        start = np.clip(start, 0, np.maximum(0, np.asarray(prepared.image.shape) - size))
        s = self.settings
        (image,), window = cut(prepared, start + size // 2, s.patch_vox, self._fill[n], s.warped_fraction, rng)
        from_scan = np.linalg.inv(window)
        cmbs, possible = (world_from_index(self._marked[n][label], from_scan) for label in ("cmb", "possible"))
        image, inserted = self._plant(image, n, from_scan, cmbs, rng)
        grid = np.diag([*spacing, 1.0])  # of the patch as the network sees it, whatever it was scaled by
        target = centre_heatmap(image.shape, grid, np.concatenate([cmbs, inserted]) * spacing, self.settings.sigma_mm)
        possible = centre_heatmap(image.shape, grid, possible * spacing, IGNORE_MM / 2)
        weight = np.where((possible > np.exp(-2)) & (target == 0), 0, 1).astype(np.float32)
        image, target, weight = flip_and_turn([image, target, weight], rng)
        return vary_intensity(image, rng), target, weight

    def _anywhere(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """A voxel (3,) of scan `n`'s brain, more often near its outside; of the whole scan if no brain is made out."""
        places = self._places[n].voxel
        return places[rng.integers(len(places))] if len(places) else rng.integers(0, self.examples[n].prepared.shape)

    def _plant(
        self, image: np.ndarray, n: int, from_scan: np.ndarray, cmbs: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A patch of scan `n` with lesions inserted, and the inserted CMBs' centres (P, 3).

        cmbs: (N, 3), the marked ones' centres. All in the patch's voxels; from_scan: (4, 4), indices of the scan to the patch's.
        """
        s, lesion_bank = self.settings, self._lesion_banks[n]
        kinds = np.repeat([True, False], rng.poisson((s.inserted_per_patch, s.inserted_mimics_per_patch)))
        if lesion_bank is None or not len(kinds):
            return image, np.zeros((0, 3))
        spacing, taken, inserted = self.examples[n].prepared.spacing_mm, cmbs, [np.zeros((0, 3))]
        places, by_dark = self._places_in(n, from_scan, image.shape)
        places = places[choose_places(by_dark, len(kinds), rng)]
        for place, cmb in zip(places, kinds[: len(places)], strict=True):
            place = place + rng.uniform(-0.5, 0.5, 3) * STEP
            if len(taken) and np.linalg.norm((taken - place) * spacing, axis=1).min() < APART_MM:
                continue
            with_plant, centre, _ = insert_lesion(image, spacing, place, lesion_bank, bool(cmb), self._fill[n], rng)
            if np.any(np.rint(centre) < 0) or np.any(np.rint(centre) >= image.shape):
                continue  # its maximum would lie outside
            image = with_plant
            inserted += [centre[None]] if cmb else []
            taken = np.concatenate([taken, centre[None]])
        return image, np.concatenate(inserted)

    def _places_in(self, n: int, from_scan: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Places (N, 3) of scan `n` that lie in a patch of this shape, in its voxels, and which are near something dark, (N,)."""
        there = self._places[n].within(*extent(np.linalg.inv(from_scan), shape))
        places = world_from_index(self._places[n].voxel[there], from_scan)
        inside = ((places >= 0) & (places < shape)).all(axis=1)
        return places[inside], self._places[n].by_dark[there[inside]]


def cut(
    prepared: Prepared, middle: np.ndarray, size: tuple[int, int, int], air: float, warped: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A patch (C, *size) around a voxel `middle` (3,), warped with this probability, and its indices to the scan's (4, 4)."""
    if rng.random() < warped:
        window = to_scan(draw_matrix(prepared.spacing_mm, rng), middle, size)
        return warped_channels(prepared, window, size, air), window
    return cut_channels(prepared, middle[None], size, air)[0], to_scan(np.eye(3), middle, size)


def _lesion_bank_of(example: Example) -> LesionBank:
    if example.lesion_bank is None or (example.prepared.phase is not None and example.lesion_bank.phase is None):
        remedy = "remove data/prepared and run `dvc repro`, or set all inserted_ settings to 0"
        raise InputError("prepared-missing", f"training scan {example.key}", "simulated lesions to insert", "none prepared", remedy)
    return example.lesion_bank


CMB, UNKNOWN = 0, -1


def kind_of(label: str) -> int:
    """CMB for a microbleed, from 1 the mimics of networks.cnn.KINDS, UNKNOWN for others. label: an annotation's."""
    names = [n for n, kind in enumerate(KINDS, start=1) if label.startswith(MIMIC_PREFIX + kind)]
    return CMB if label == "cmb" else names[0] if names else UNKNOWN


@dataclass(frozen=True)
class LabelledCandidates:
    """Stage-1 candidates of one scan as stage-2 examples. index_vox: (N, 3) int64; kind: (N,) int64, as `kind_of` numbers them."""

    example: Example
    index_vox: np.ndarray
    kind: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """Which are microbleeds, (N,) bool."""
        return self.kind == CMB

    @property
    def prepared(self) -> Prepared:
        return self.example.prepared


def label_candidates(example: Example, index_vox: np.ndarray, match_mm: float) -> LabelledCandidates:
    """Label candidates (N, 3) by the nearest CMB, drop those at a `possible` lesion, and add every CMB's own centre.

    A candidate belongs to a lesion within max(match_mm, the lesion's radius), as in evaluation. The true centres are added so that
    a lesion stage 1 missed is still an example of a CMB for stage 2.
    """
    affine, cmbs = example.prepared.affine, example.centres_mm("cmb")
    world = world_from_index(index_vox, affine)

    def near(annotations: list[Annotation]) -> np.ndarray:
        """Which candidates each of the annotations reaches, (N, annotations) bool."""
        reach = np.array([max(match_mm, a.diameter_mm / 2) for a in annotations])
        centres = np.array([a.centre_mm for a in annotations]).reshape(-1, 3)
        return np.linalg.norm(world[:, None] - centres[None], axis=2) <= reach

    def marked(*labels: str) -> list[Annotation]:
        return [a for a in example.annotations if a.label.startswith(labels)]

    kind = np.full(len(index_vox), UNKNOWN)
    mimics = marked(MIMIC_PREFIX)
    for mimic, at in zip(mimics, near(mimics).T, strict=True):
        kind[at] = kind_of(mimic.label)
    kind[near(marked("cmb")).any(axis=1)] = CMB
    keep = (kind == CMB) | ~near(marked("possible")).any(axis=1)
    own = np.rint(index_from_world(cmbs, affine)).astype(np.int64)
    index = np.concatenate([index_vox[keep].reshape(-1, 3), own])
    return LabelledCandidates(example, index, np.concatenate([kind[keep], np.full(len(own), CMB)]))


class CnnSampler:
    """Draws stage-2 batches: candidates with a share of positives, shifted a little, flipped and varied.

    channels: C of the patches, 2 where the scans have phase.
    """

    def __init__(self, sets: Sequence[LabelledCandidates], settings: Cnn) -> None:
        self.settings = settings
        self._sets = list(sets)
        self.channels = 1 if any(group.prepared.phase is None for group in self._sets) else 2
        self._fill = [group.prepared.air for group in self._sets]
        self._brains = [_brain_of(g.example, air) for g, air in zip(self._sets, self._fill, strict=True)]
        self._inside = [brain.places().voxel for brain in self._brains]
        inserted = settings.inserted_fraction + settings.inserted_mimic_fraction
        self._lesion_banks = [_lesion_bank_of(group.example) if inserted else None for group in self._sets]
        places = [(s, n) for s, group in enumerate(self._sets) for n in range(len(group.index_vox))]
        self._positive = [p for p in places if self._sets[p[0]].positive[p[1]]]
        self._negative = [p for p in places if not self._sets[p[0]].positive[p[1]]]
        if not self._positive or not self._negative:
            raise InputError(
                "training-too-few",
                "stage-2 training candidates",
                "both microbleeds and mimics",
                f"{len(self._positive)} and {len(self._negative)}",
                "train stage 1 longer, lower detect_candidates.candidates.floor or use fewer folds",
            )

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Patches (batch, C, *patch_vox) float32 and what each shows, (batch,) int64, as `kind_of` numbers it."""
        positives = max(1, round(self.settings.batch * self.settings.positive_fraction))
        patches, kinds = zip(*(self._patch(n < positives, rng) for n in range(self.settings.batch)), strict=True)
        return np.stack(patches), np.array(kinds, dtype=np.int64)

    def basis(self) -> object:
        """Nothing that changes."""
        return self

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing: batches depend on the generator alone."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to restore."""

    def _patch(self, positive: bool, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        if rng.random() < (self.settings.inserted_fraction if positive else self.settings.inserted_mimic_fraction):
            s = int(rng.integers(len(self._sets)))
            if len(self._inside[s]):
                return self._inserted(s, positive, rng)
        pool = self._positive if positive else self._negative
        s, n = pool[rng.integers(len(pool))]
        jitter = np.asarray(self.settings.jitter_vox)
        index = self._sets[s].index_vox[n] + rng.integers(-jitter, jitter + 1)
        return self._vary(self._cut(s, index, rng), rng), int(self._sets[s].kind[n])

    def _inserted(self, s: int, cmb: bool, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A patch of scan `s` with a simulated CMB or mimic about its centre, off it by as much as a candidate may be."""
        lesion_bank = self._lesion_banks[s]
        # There is one wherever a fraction of insertions is above 0.
        assert lesion_bank is not None
        jitter = np.asarray(self.settings.jitter_vox)
        patch = self._cut(s, self._place(s, rng), rng)
        middle = np.asarray(patch.shape[1:]) // 2 + rng.integers(-jitter, jitter + 1)
        patch, _, label = insert_lesion(patch, self._sets[s].prepared.spacing_mm, middle, lesion_bank, cmb, self._fill[s], rng)
        return self._vary(patch, rng), kind_of(label)

    def _place(self, s: int, rng: np.random.Generator) -> np.ndarray:
        """A voxel (3,) of scan `s`'s brain: next to a candidate that is no microbleed, as real ones often are, or anywhere.

        Were all synthetic lesions somewhere in plain tissue, stage 2 would learn that microbleeds have no veins about them.
        """
        group = self._sets[s]
        mimics = group.index_vox[~group.positive]
        if len(mimics) and rng.random() < NEARBY_SHARE:
            for _ in range(NEARBY_TRIES):
                away = rng.standard_normal(3)
                away *= rng.uniform(*NEARBY_MM) / np.linalg.norm(away) / np.asarray(group.prepared.spacing_mm)
                place = np.rint(mimics[rng.integers(len(mimics))] + away).astype(int)
                if self._brains[s].holds(place):
                    return place
        return self._inside[s][rng.integers(len(self._inside[s]))]

    def _cut(self, s: int, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A patch (C, *patch_vox) of scan `s`."""
        settings = self.settings
        return cut(self._sets[s].prepared, index, settings.patch_vox, self._fill[s], settings.warped_fraction, rng)[0]

    def _vary(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        swi, *phase = flip_and_turn([patch], rng)[0]
        return np.stack([vary_intensity(swi, rng), *(vary_phase(p, self.settings.phase_dropout, rng) for p in phase)])
