"""The fine grid a scan is simulated on, and separable interpolation on such grids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates

from cmb_models.phantom.config import PhantomConfig
from cmb_models.volume import triple


@dataclass(frozen=True)
class Grid:
    """A box of voxels along the axes of its frame: voxel (0, 0, 0) has its centre at origin_mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def axis_mm(self, axis: int) -> np.ndarray:
        """Voxel centres along one axis, in mm."""
        return self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])

    def axis_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the first and the last voxel, mm (3,) each."""
        first = np.array(self.origin_mm)
        return first, first + (np.array(self.shape) - 1) * self.spacing_mm

    def index(self, world_mm: np.ndarray) -> np.ndarray:
        """Positions (N, 3) in mm to voxel indices (N, 3) with fractions."""
        return (np.asarray(world_mm) - self.origin_mm) / self.spacing_mm

    def affine(self) -> np.ndarray:
        """(4, 4), voxel index to mm of the grid's frame."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    def coarse(self, step_mm: float) -> Grid:
        """A grid of about step_mm that covers this one: the same for all fine grids of a scan, which share origin and period."""
        period = [n * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        shape = triple(max(2, math.ceil(round(p / step_mm, 6)) + 1) for p in period)
        spacing = triple(p / (n - 1) for p, n in zip(period, shape, strict=True))
        return Grid(shape, spacing, self.origin_mm)


def acquired_grid(config: PhantomConfig) -> Grid:
    """Voxels of the scan with its guards, in slab mm: the field of view's centre is 0."""
    shape = triple(n + 2 * g for n, g in zip(config.shape, config.guard_vox, strict=True))
    return Grid(shape, config.spacing_mm, triple(-(n - 1) * s / 2 for n, s in zip(shape, config.spacing_mm, strict=True)))


def fine_grid(acquired: Grid, fine_mm: float) -> Grid:
    """The grid simulated on: the same period in steps of fine_mm or a little less, in numbers that Fourier transforms like.

    Both grids share voxel (0, 0, 0), as cutting k-space keeps it in place. An axis already that fine gains a few voxels at most.
    """
    extent = [n * s for n, s in zip(acquired.shape, acquired.spacing_mm, strict=True)]
    shape = triple(
        scipy.fft.next_fast_len(max(n, math.ceil(e / fine_mm - 1e-6)), real=True)
        for n, e in zip(acquired.shape, extent, strict=True)
    )
    return Grid(shape, triple(e / n for e, n in zip(extent, shape, strict=True)), acquired.origin_mm)


def linear_matrix(at: np.ndarray, nodes: int) -> np.ndarray:
    """(len(at), nodes) float32 weights for linear interpolation at node indices `at`; outside, the last node holds."""
    at = np.clip(at, 0, nodes - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(nodes))).astype(np.float32)


def resample(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Values (..., I, J, K) on `source` to (..., I', J', K') on `target`, linearly."""
    for axis in range(3):
        at = (target.axis_mm(axis) - source.origin_mm[axis]) / source.spacing_mm[axis]
        values = apply_along(values, linear_matrix(at, source.shape[axis]), axis - 3)
    return values


def lookup(values: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Values of a map (C, I, J, K) or (I, J, K) on `grid` at points (N, 3) in its mm: (N, C) or (N,) float32, linearly.

    Outside, the nearest edge holds.
    """
    at = grid.index(points).T
    if values.ndim == 3:
        return map_coordinates(values, at, np.float32, order=1, mode="nearest")
    return np.stack([map_coordinates(v, at, np.float32, order=1, mode="nearest") for v in values], axis=1)


def average(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Mean of `values` (I, J, K) on `source` over each voxel of the coarser `target`, whose voxels lie within it."""
    for axis in range(3):
        step, wide = source.spacing_mm[axis], target.spacing_mm[axis]
        faces = source.axis_mm(axis) - step / 2
        low = target.axis_mm(axis)[:, None] - wide / 2
        overlap = np.minimum(faces + step, low + wide) - np.maximum(faces, low)
        values = apply_along(values, (np.clip(overlap, 0, None) / wide).astype(np.float32), axis - 3)
    return values


def apply_along(values: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Multiply one of the last three axes (-3, -2, -1) of `values` (..., I, J, K) by a (new, old) matrix."""
    matrix = matrix.astype(values.dtype, copy=False)
    if axis == -1:
        return values @ matrix.T
    if axis == -2:
        return matrix @ values
    *front, _, j, k = values.shape
    flat = matrix @ np.ascontiguousarray(values).reshape(*front, values.shape[-3], j * k)  # matmul is fast on whole matrices
    return flat.reshape(*front, len(matrix), j, k)


def smooth_noise(rng: np.random.Generator, grid: Grid, step_mm: float) -> np.ndarray:
    """Gaussian noise of about unit variance at nodes step_mm apart, linearly between them: grid.shape float32."""
    nodes = grid.coarse(step_mm)
    return resample(rng.standard_normal(nodes.shape, dtype=np.float32), nodes, grid)
