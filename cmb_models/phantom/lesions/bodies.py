"""The shapes of what holds a lesion's susceptibility or darkens its place, on a finely divided box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

# Log-standard deviation of half axes: assumed; microbleeds then have a sphericity of 0.9 as seen (marked ones 0.85).
AXES_SIGMA = 0.22
DENT = 0.10  # depth of each of three crossed waves over the radius: assumed, as above
DENT_PER_RADIUS = 2.5  # dents about a radius wide: assumed
RIM_FROM = 0.75  # a cavernoma's haemosiderin begins at this share of its radius: assumed
LOBULE_MM, LOBULE_WAVES = 2.2, 4  # width of a cavernoma's blood-filled lobules, its popcorn; waves that make them: assumed
LOBULE_SIGNAL, SEPTUM_SIGNAL, SEPTUM_CHI = 1.15, 0.35, 0.3  # against tissue and against the rim: assumed


@dataclass(frozen=True)
class Body:
    """chi: (I, J, K) float32, share of the lesion's susceptibility. signal: the same shape, factor on the tissue's own signal."""

    chi: np.ndarray
    signal: np.ndarray


def blob(seed: int, away: np.ndarray, radius_mm: float, step_mm: float, inner_signal: float) -> Body:
    """A dented ellipsoid with the volume of a sphere of radius_mm.

    away: (3, I, J, K) float32 mm from its centre, along the head's axes. step_mm: between voxels; its surface is blurred over it.
    """
    share = _filled(_roundness(np.random.default_rng(seed), away, radius_mm), radius_mm, step_mm)
    return Body(share, 1 - share * np.float32(1 - inner_signal))


def popcorn(seed: int, away: np.ndarray, radius_mm: float, step_mm: float, inner_signal: float) -> Body:
    """A cavernoma: a dark rim that holds the susceptibility around bright lobules with dark septa. Arguments as for `blob`."""
    rng = np.random.default_rng(seed)
    distance = _roundness(rng, away, radius_mm)
    outer = _filled(distance, radius_mm, step_mm)
    core = np.minimum(outer, np.clip((RIM_FROM * radius_mm - distance) / step_mm + 0.5, 0, 1)).astype(np.float32)
    directions = rng.standard_normal((LOBULE_WAVES, 3))
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    waves = sum(np.sin(w) for w in _waves(rng, np.tensordot(directions.astype(np.float32), away, 1), np.pi / LOBULE_MM))
    septa = core * np.clip(0.5 - waves, 0, 1).astype(np.float32)
    rim = outer - core
    dark = rim * (1 - inner_signal) + septa * (1 - SEPTUM_SIGNAL) - (core - septa) * (LOBULE_SIGNAL - 1)
    return Body(rim + septa * np.float32(SEPTUM_CHI), (1 - dark).astype(np.float32))


def tube(away: np.ndarray, radius_mm: float, along_mm: np.ndarray, step_mm: float, inner_signal: float) -> Body:
    """A straight piece of a vessel with round ends, along_mm (3,) from end to end; without susceptibility."""
    length = float(np.linalg.norm(along_mm))
    unit = np.asarray(along_mm, np.float32) / np.float32(length)
    along = np.tensordot(unit, away, 1)
    beyond = along - np.clip(along, -length / 2, length / 2)
    distance = np.sqrt(np.maximum(np.square(away).sum(0) - np.square(along) + np.square(beyond), 0))
    share = np.clip((radius_mm - distance) / step_mm + 0.5, 0, 1).astype(np.float32)
    return Body(np.zeros_like(share), 1 - share * np.float32(1 - inner_signal))


def _roundness(rng: np.random.Generator, away: np.ndarray, radius_mm: float) -> np.ndarray:
    """Distance from the centre in mm, (I, J, K), made equal over the surface of a dented ellipsoid."""
    axes = np.exp(rng.normal(0, AXES_SIGMA, 3))
    matrix = Rotation.random(random_state=rng).as_matrix() / (axes / np.cbrt(axes.prod()))[:, None]
    turned = np.tensordot(matrix.astype(np.float32), away, 1)
    dents = 1 + DENT * sum(np.sin(w) for w in _waves(rng, turned, DENT_PER_RADIUS / radius_mm))
    return np.sqrt(np.square(turned).sum(0)) / dents


def _waves(rng: np.random.Generator, away: np.ndarray, per_mm: float) -> list[np.ndarray]:
    """Phases of waves along each of `away` (N, I, J, K) in mm, per_mm radians a mm, each from an angle of its own."""
    return [np.float32(per_mm) * a + np.float32(p) for a, p in zip(away, rng.uniform(0, 2 * np.pi, len(away)), strict=True)]


def _filled(distance: np.ndarray, radius_mm: float, step_mm: float) -> np.ndarray:
    """Share of each voxel inside, (I, J, K) float32, of the volume of a sphere of radius_mm whatever the dents take away."""
    volume, radius = 4 / 3 * np.pi * radius_mm**3, radius_mm
    for _ in range(3):
        share = np.clip((radius - distance) / step_mm + 0.5, 0, 1)
        radius *= float(np.cbrt(volume / max(float(share.sum()) * step_mm**3, 1e-6)))
    return np.clip((radius - distance) / step_mm + 0.5, 0, 1).astype(np.float32)


def tube_volume_mm3(radius_mm: float, length_mm: float) -> float:
    """Volume of a `tube`, its round ends included."""
    return np.pi * radius_mm**2 * (length_mm + 4 / 3 * radius_mm)
