"""Implicit shapes and smooth noise: what the other generator's heads are made of.

Points are arrays (3, ...) in mm, x to the right, y to the front, z to the top. A shape is its signed distance in mm, roughly:
positive inside, 0 on the surface.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

GROW = 1.6  # bound on how fast a distance to a noise's zero set may grow where the noise is flat, in rms gradients


def ellipsoid(p: np.ndarray, centre: Sequence[float], axes: Sequence[float], square: bool = False) -> np.ndarray:
    """Ellipsoid with semi-axes in mm, with flatter sides if `square` (exponent 2.5). (...) mm along rays from the centre."""
    q = [p[n] - np.float32(centre[n]) for n in range(3)]
    parts = [np.abs(q[n]) * np.float32(1 / axes[n]) for n in range(3)]
    powers = [a * a * np.sqrt(a) if square else a * a for a in parts]  # far quicker than a power
    away = sum(powers) ** np.float32(0.4) if square else np.sqrt(sum(powers))
    return np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2) * (1 / np.maximum(away, np.float32(1e-3)) - 1)


def chain(p: np.ndarray, path: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Tube along a polyline (N, 3) with a radius (N,) at each corner, mm."""
    inside = None
    for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        step = np.float32(b - a)
        q = [p[n] - np.float32(a[n]) for n in range(3)]
        t = np.clip((q[0] * step[0] + q[1] * step[1] + q[2] * step[2]) / np.float32(step @ step), 0, 1)
        away = np.sqrt(sum((q[n] - t * step[n]) ** 2 for n in range(3)))
        own = np.float32(ra) + t * np.float32(rb - ra) - away
        inside = own if inside is None else np.maximum(inside, own)
    return inside


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], scale_vox: float, wide_vox: float | None = None) -> np.ndarray:
    """Gaussian noise (shape) float32 with standard deviation 1, blurred by `scale_vox`; less its own blur by `wide_vox`, if given.

    Drawn on a coarser grid and enlarged, since it is smooth.
    """
    step = max(1.0, scale_vox / 2)
    coarse = rng.standard_normal([int(np.ceil(s / step)) + 2 for s in shape], dtype=np.float32)
    field = ndimage.gaussian_filter(coarse, scale_vox / step, mode="wrap")
    if wide_vox is not None:
        field -= ndimage.gaussian_filter(coarse, wide_vox / step, mode="wrap")
    return enlarge(field / field.std(), shape, step)


def enlarge(field: np.ndarray, shape: Sequence[int], step: float) -> np.ndarray:
    """A coarse field between its voxels, linearly, at every 1 / `step` of one: (shape) float32."""
    for axis, size in enumerate(shape):
        at = np.arange(size) / step
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(field.shape[axis]))).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)


def zero_set(field: np.ndarray, step_mm: float) -> np.ndarray:
    """Distance in mm (...) to where a noise field (I, J, K) is zero, to first order: sheets that never end, with nowhere a jump."""
    slope = np.sqrt(sum(g**2 for g in np.gradient(field, np.float32(step_mm))))
    return np.abs(field) / np.maximum(slope, slope.mean() / GROW)


def soft(distance_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Share of a shape in each voxel, (...) in [0, 1], from its signed distance and the width of its edge."""
    return np.clip(np.float32(0.5) + distance_mm * np.float32(0.5 / edge_mm), 0, 1)
