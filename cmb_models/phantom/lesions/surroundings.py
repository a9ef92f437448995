"""Where a microbleed could be distinguished from its surroundings: by definition brain surrounds at least half of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_models.phantom.scanner.slab import Slab

LEAST_SURROUNDED = 0.5  # Greenberg et al., Lancet Neurology 2009: "at least half of lesion surrounded by brain parenchyma"
BRIGHT = 0.75  # of the brain's median in SWI, from which on a place shows as brain: assumed
RING_MM = 1.5  # width of the surroundings that are looked at, beyond the lesion and half a voxel of its edge: assumed
DIRECTIONS, RINGS = 24, 3


class Surroundings:
    """How much of a lesion's surroundings shows as brain in one slab's SWI, before any lesion, noise or coil."""

    def __init__(self, swi: np.ndarray, brain: np.ndarray, slab: Slab):
        """swi: (I, J, K) on slab.kept_grid. brain: bool of the same shape; without a brain voxel nothing is surrounded."""
        self._slab = slab
        self._brain = np.zeros(swi.shape, np.float32)
        if brain.any():
            self._brain = (brain & (swi >= BRIGHT * np.median(swi[brain]))).astype(np.float32)

    def share(self, head_mm: np.ndarray, diameter_mm: float) -> np.ndarray:
        """Share, 0 to 1, of the ring around lesions of a seen diameter at places (N, 3) in head mm, in their slices: (N,)."""
        grid = self._slab.kept_grid
        radii = diameter_mm / 2 + max(grid.spacing_mm[:2]) / 2 + np.linspace(0, RING_MM, RINGS)
        angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
        x, y = (np.outer(radii, turn).ravel() for turn in (np.cos(angles), np.sin(angles)))
        around = self._slab.from_head(head_mm)[:, None] + np.stack([x, y, np.zeros(x.shape)], axis=1)
        index = grid.index(around.reshape(-1, 3)).T
        return ndimage.map_coordinates(self._brain, index, order=0).reshape(len(head_mm), x.size).mean(axis=1)

    def show(self, head_mm: np.ndarray, diameter_mm: float) -> np.ndarray:
        """Which places (N, 3) in head mm can hold a microbleed of this diameter that a reader would mark: (N,) bool."""
        return self.share(head_mm, diameter_mm) >= LEAST_SURROUNDED
