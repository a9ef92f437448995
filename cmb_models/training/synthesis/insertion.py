"""Lesions inserted into a site's own scans: few scans hold few lesions, and a network needs to see many.

Where they go, and how one is put in. What they look like comes from the phantom's physics (lesion_bank.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

LESION_BANK_FILES = "lesions_*.npz"  # next to the prepared scans, one per voxel size
FAINTEST = 0.35  # least share of a synthetic lesion's darkness: scanners and filters differ far in contrast
SOFTEST_MM = 1.0  # largest standard deviation of the blur of a synthetic lesion: as do resolution, motion and zero filling
NEARBY_SHARE = (
    0.5  # share of synthetic lesions that are placed next to something dark: half of real ones lie at the cortex or by a vein
)
NEARBY_MM = (2.0, 6.0)  # from there: touching or near
DARKER = 0.4  # by this share of the head's 5-95 percentile range: vessels, fluid, bone


@dataclass(frozen=True)
class LesionBank:
    """N simulated lesions on the working grid.

    share: (N, I, J, K) float32, odd extents, what each voxel keeps of its signal, 1 at the border. off_vox: (N, 3), the lesion's
    centre from the middle voxel. label: (N,), as in annotations. diameter_mm: (N,), as seen. phase: as share, the radians that each
    voxel's phase changes by, 0 at the border; None where phase is not used.
    """

    share: np.ndarray
    off_vox: np.ndarray
    label: np.ndarray
    diameter_mm: np.ndarray
    phase: np.ndarray | None = None

    def of(self, cmbs: bool) -> np.ndarray:
        """Numbers of the microbleeds, or of the mimics."""
        return np.flatnonzero((self.label == "cmb") == cmbs)


def read_lesion_bank(path: Path) -> LesionBank:
    """Synthetic lesions of one file of `write_lesion_bank` (lesion_bank.py)."""
    with np.load(path) as arrays:
        return LesionBank(**arrays)


def choose_places(by_dark: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` numbers of N places, no two the same; NEARBY_SHARE of them near something dark, as far as there are such.

    by_dark: (N,) bool, which are. (0,) int64 for no places.
    """
    if not len(by_dark):
        return np.zeros(0, dtype=np.int64)
    share = np.where(by_dark, NEARBY_SHARE / max(by_dark.sum(), 1), (1 - NEARBY_SHARE) / max((~by_dark).sum(), 1))
    return rng.choice(len(by_dark), min(count, len(by_dark)), replace=False, p=share / share.sum())


def insert_lesion(
    image: np.ndarray,
    spacing_mm: tuple[float, float, float],
    at_vox: np.ndarray,
    lesion_bank: LesionBank,
    cmb: bool,
    air: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, str]:
    """A copy of a normalised float32 patch with one synthetic lesion near at_vox (3,); the voxel (3,) of its centre; its label.

    image: (I, J, K), or (C, I, J, K) as cut_channels gives it; a second channel is the phase, which the lesion is added to as faint
    as it is put into the first. cmb: a microbleed, or else a mimic. It is mirrored and its in-plane axes are swapped at random,
    which leaves its physics true (the field runs across slices, nearly). What would lie beyond the patch is left out. air: the
    signal of nothing.
    """
    rows = lesion_bank.of(cmb)
    n = rows[rng.integers(len(rows))]
    image = np.array(image, dtype=np.float32)
    swi, *phases = image.reshape(-1, *image.shape[-3:])  # views: what is written to them is written to the image
    stored = [] if lesion_bank.phase is None else [lesion_bank.phase[n]] * len(phases)
    window, off = np.stack([1 - lesion_bank.share[n], *stored]), lesion_bank.off_vox[n]
    flips = rng.random(3) < 0.5
    window, off = np.flip(window, tuple((np.flatnonzero(flips) + 1).tolist())), np.where(flips, -off, off)
    if rng.random() < 0.5 and window.shape[1] == window.shape[2]:
        window, off = np.swapaxes(window, 1, 2), off[[1, 0, 2]]
    middle = np.rint(at_vox).astype(int)
    start = middle - np.array(window.shape[1:]) // 2
    low, high = np.maximum(start, 0), np.minimum(start + window.shape[1:], swi.shape)
    if np.all(low < high):
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        window = window * np.float32(rng.uniform(FAINTEST, 1))
        window = ndimage.gaussian_filter(window, (0, *(rng.uniform(0, SOFTEST_MM) / np.asarray(spacing_mm))), truncate=2)
        taken, *changes = window[(slice(None), *(slice(a, b) for a, b in zip(low - start, high - start, strict=True)))]
        swi[here] = air + (swi[here] - air) * (1 - taken)
        for phase, change in zip(phases, changes, strict=True):
            phase[here] = wrapped(phase[here] + change)
    return image, middle + off, str(lesion_bank.label[n])


def wrapped(phase: np.ndarray) -> np.ndarray:
    """Radians, float32 of any shape, brought to within -pi and pi by whole turns."""
    return phase - np.float32(2 * np.pi) * np.rint(phase / np.float32(2 * np.pi))
