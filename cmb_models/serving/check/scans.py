"""Synthetic scans for `cmb server check`: a uniform head with dark spots in several voxel orders, and invalid scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.volume import Volume

# Spot positions as fractions of the head's semi-axes.
SPOTS = ((-0.45, -0.2, 0.0), (0.4, 0.3, -0.2), (0.0, 0.5, 0.25), (0.3, -0.45, 0.15), (-0.25, 0.15, -0.35))
SPOT_SIGMA_MM = 1.5  # appears as about 4 mm, a common size (957 annotated microbleeds: median 2.7 mm, 95th percentile 4.8 mm)
RADIUS = 0.42  # semi-axes of the head, as a fraction of the field of view


@dataclass(frozen=True)
class Scan:
    """A synthetic scan, its phase image (for releases that use phase), and the centres of its spots (N, 3) in RAS mm."""

    volume: Volume
    phase: Volume
    spots_mm: np.ndarray


def head(shape: Sequence[int], spacing_mm: Sequence[float], seed: int = 0, spots: bool = True) -> Scan:
    """A head in dark air, axes in RAS order, noise by `seed`. spots False: without spots, smooth and noiseless inside."""
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(shape), np.asarray(spacing_mm, dtype=float)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.asarray(shape) - 1) / 2 + (3.5, -11.25, 6.0)  # off centre, as a patient
    centre = affine[:3, 3] + spacing * (np.asarray(shape) - 1) / 2
    axes = [affine[a, 3] + spacing[a] * np.arange(shape[a]) for a in range(3)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = RADIUS * spacing * shape
    distance = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + ((z - centre[2]) / radius[2]) ** 2
    inside = distance < 1
    data = np.where(inside, 600 - 60 * distance, 0.0)
    radians = np.zeros(shape)
    spots_mm = centre + np.asarray(SPOTS) * radius if spots else np.empty((0, 3))
    for spot in spots_mm:
        shade = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2 + (z - spot[2]) ** 2) / (2 * SPOT_SIGMA_MM**2))
        data -= 0.85 * data * shade
        radians += 1.5 * shade
    if spots:
        data = np.abs(data + rng.normal(0, 12, shape))
    radians = np.where(inside, radians + rng.normal(0, 0.1, shape), rng.uniform(-np.pi, np.pi, shape))
    stored = np.rint(1000 * radians).astype(np.float32)
    return Scan(Volume(data.astype(np.float32), affine), Volume(stored, affine), spots_mm)


def smooth_tissue(shape: Sequence[int] = (64, 64, 40), spacing_mm: Sequence[float] = (1.0, 1.0, 2.0)) -> Scan:
    """Tissue that fills the volume with slow intensity changes, without spots, edges or noise."""
    affine = np.diag([*spacing_mm, 1.0])
    x, y, z = np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij", sparse=True)
    data = 500 + 100 * np.sin(2 * x) * np.sin(y) * np.sin(z)  # the median at the edges, as the padding
    radians = np.random.default_rng(0).normal(0, 0.1, shape)
    stored = np.rint(1000 * radians).astype(np.float32)
    return Scan(Volume(data.astype(np.float32), affine), Volume(stored, affine), np.empty((0, 3)))


def stored_as(volume: Volume, axes: Sequence[int], signs: Sequence[int]) -> Volume:
    """A volume in another voxel order: axis n of the result is axis axes[n] of `volume`, reversed where signs[n] < 0."""
    data = np.transpose(volume.data, axes)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, list(axes)]
    for axis, sign in enumerate(signs):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(data), affine)


def faulty(kind: str, scan: Scan) -> Volume:
    """The scan with one fault: 'nan', 'constant' or 'thin'."""
    data = scan.volume.data.copy()
    if kind == "nan":
        data[tuple(s // 2 for s in data.shape)] = np.nan
    elif kind == "constant":
        data[:] = 7
    else:
        data = data[:, :, :2]
    return Volume(data, scan.volume.affine)
