"""Where the brain is in a scan, as far as insertion lesions needs it: no atlas, no mask from elsewhere, one pass over the image.

Scalp, eyes, marrow and the base of the skull are bright too and hold no microbleeds. The skull lies between them and the brain,
dark and wider than what bridges it: eroded, the brain is the largest piece that is left (as in the morphological skull strippers
after Brummer 1993, IEEE TMI 12:153).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cmb_models.training.synthesis.insertion import DARKER, NEARBY_MM

Spacing = tuple[float, float, float]

STEP = (2, 2, 1)  # every so many voxels one is judged: 2 mm on a grid of 1x1x2 mm
BRIDGE_MM = 4.0  # eroded by, which parts the brain from what hangs on it
GROWN_MM = 5.0  # dilated by afterwards: a little more, since what is eroded is a grid's worth thinner than stated
DARK = 0.5  # of the way from the head's median signal to none: darker voxels that hang together are the outside
LARGE = 0.01  # of the largest such region: smaller ones are vessels; a skull that a closed scalp parts from the air is larger
TISSUE = 0.6  # of the head's median signal: darker places are vessels or bone
NEAR_MM = 3.0  # a microbleed this near to the outside touches it, or nearly
NEAR_SHARE = 0.3  # of the places: an eighth of the brain, where microbleeds are hardest to recognise and a site marks the fewest
NEAR_REPEATS = (
    20  # of a place near the outside at most: where the only dark thing is a few voxels, synthetic lesions would crowd there
)
MOST = 20_000  # places of one scan; more would only make each patch slower to draw
BRAIN, NEAR, BY_DARK = 1, 2, 4  # bits of a voxel


@dataclass(frozen=True)
class Places:
    """Voxels of a scan where lesions may be inserted, by their first index; some may come several times.

    voxel: (N, 3) int64. by_dark: (N,) bool, whether something dark is touched or near.
    """

    voxel: np.ndarray
    by_dark: np.ndarray

    def within(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Numbers (M,) of the places from `low` to `high`, (3,) each and included."""
        first = np.searchsorted(self.voxel[:, 0], low[0], side="left")
        last = np.searchsorted(self.voxel[:, 0], high[0], side="right")
        rest = self.voxel[first:last, 1:]
        return first + np.flatnonzero(((rest >= low[1:]) & (rest <= high[1:])).all(axis=1))


@dataclass(frozen=True)
class BrainMask:
    """What is known of every STEPth voxel of a scan.

    bits: (I, J, K) uint8, the sum of BRAIN, where it belongs to the brain, NEAR, where that lies within NEAR_MM of the dark
    outside, and BY_DARK, where something is darker than it by DARKER and no further than the longer NEARBY_MM along any axis.
    """

    bits: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Which are brain, (I, J, K) bool."""
        return (self.bits & BRAIN) > 0

    @property
    def near(self) -> np.ndarray:
        """Which are brain near the outside, (I, J, K) bool."""
        return (self.bits & NEAR) > 0

    def holds(self, index_vox: np.ndarray) -> bool:
        """Whether a voxel (3,) of the image is brain; False beyond it."""
        coarse = np.asarray(index_vox) // STEP
        return bool(np.all((coarse >= 0) & (coarse < self.bits.shape)) and self.bits[tuple(coarse)] & BRAIN)

    def places(self) -> Places:
        """Up to MOST places in the brain, drawn the same way each time; none where there is no brain.

        NEAR_SHARE of them, or more where more of the brain does, lie near the outside, each NEAR_REPEATS times on average at most.
        """
        rng = np.random.default_rng(0)
        near, deep = np.argwhere(self.near), np.argwhere(self.mask & ~self.near)
        there = len(near) + len(deep)
        count = min(MOST, there)
        close = max(min(round(NEAR_SHARE * count), NEAR_REPEATS * len(near)), round(len(near) / max(there, 1) * count))
        drawn = [part[rng.integers(len(part), size=n)] for part, n in ((near, close), (deep, count - close)) if n]
        coarse = np.concatenate([np.zeros((0, 3), dtype=np.int64), *drawn])
        coarse = coarse[np.argsort(coarse[:, 0], kind="stable")]
        return Places(coarse * STEP, (self.bits[tuple(coarse.T)] & BY_DARK) > 0)


def find_brain_mask(image: np.ndarray, spacing_mm: Spacing, air: float) -> BrainMask:
    """The brain in a normalised image (I, J, K), the head's median at 0 and air at `air` (below 0).

    Where the scan ends the head continues: a cut through it is no surface. Of an image without a brain nothing is.
    """
    every = tuple(slice(None, None, s) for s in STEP)
    coarse = image[every]
    step_mm = [s * step for s, step in zip(spacing_mm, STEP, strict=True)]
    dark = coarse < air * DARK
    core = _large(ndimage.binary_erosion(~dark, _ball(BRIDGE_MM, step_mm), border_value=1), 1.0)
    mask = ndimage.binary_dilation(core, _ball(GROWN_MM, step_mm)) & (coarse > air * (1 - TISSUE))
    near = mask & ndimage.binary_dilation(_large(dark, LARGE), _ball(NEAR_MM, step_mm))
    box = [2 * int(NEARBY_MM[1] / s) + 1 for s in spacing_mm]
    by_dark = ndimage.minimum_filter(image, box)[every] < coarse - DARKER
    return BrainMask(sum(np.uint8(bit) * known for bit, known in ((BRAIN, mask), (NEAR, near), (BY_DARK, by_dark))))


def depth_mm(image: np.ndarray, spacing_mm: Spacing, air: float) -> np.ndarray:
    """Of each voxel (I, J, K): to the dark outside, 0 in it; infinite where nothing is dark."""
    outside = _large(image < air * DARK, LARGE)
    return ndimage.distance_transform_edt(~outside, sampling=spacing_mm) if outside.any() else np.full(image.shape, np.inf)


def _large(mask: np.ndarray, share: float) -> np.ndarray:
    """The connected pieces of a mask that have at least this share of the largest one's voxels; empty for an empty mask."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(1, share * sizes.max()))[labels]


def _ball(radius_mm: float, step_mm: list[float]) -> np.ndarray:
    """Voxels whose middles lie within radius_mm of the middle one."""
    half = [int(radius_mm / s) for s in step_mm]
    axes = np.ogrid[tuple(slice(-h, h + 1) for h in half)]
    i, j, k = ((axis * s) ** 2 for axis, s in zip(axes, step_mm, strict=True))
    return i + j + k <= radius_mm**2
