"""Veins as continuous paths: sinuses, veins of the surface with their branches, of the sulci, and of the deep white matter.

Paths are walked in template space, all at once: points (S, N, 3) in MNI mm, step by step, and radius_mm (S, N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from cmb_models.phantom.grid import Grid
from cmb_models.phantom.template import Template
from cmb_models.phantom.warp import Warp

# Points in MNI mm read off the T1 by eye, then radius at the first and the last point, mm; those off the midline are mirrored.
TRUNKS = (
    (((0, 66, 22), (0, 48, 52), (0, 15, 76), (0, -25, 85), (0, -60, 75), (0, -92, 40), (0, -104, 8), (0, -100, -12)), 1.2, 3.2),
    (((0, -42, 5), (0, -58, -1), (0, -78, -12), (0, -98, -16)), 1.6, 2.0),  # straight sinus
    (((2, -98, -14), (30, -92, -20), (52, -72, -26), (62, -50, -32), (56, -38, -46)), 2.2, 2.8),  # transverse sinus
    (((2.5, 4, 14), (2.5, -15, 18), (3, -32, 12), (1, -42, 5)), 0.6, 1.1),  # internal cerebral vein
    (((16, 2, -18), (20, -12, -14), (20, -28, -4), (12, -38, 4), (1, -42, 5)), 0.4, 1.0),  # basal vein
    (((22, -26, 24), (17, -8, 24), (10, 4, 18), (2.5, 4, 14)), 0.3, 0.7),  # thalamostriate vein
    (((4, 28, 10), (3, 16, 12), (2.5, 4, 14)), 0.3, 0.6),  # septal vein
)
WALL = ((14, 26, 14), (17, 8, 24), (20, -12, 27), (23, -30, 26), (26, -42, 18))  # ventricle's edge, where medullary veins end
STEP_MM = 0.8
SPLATS = 6  # points a step's blood is spread over, across the vein


@dataclass(frozen=True)
class Walk:
    """points: (S, N, 3) MNI mm. radius_mm: (S, N), 0 where a path has ended."""

    points: np.ndarray
    radius_mm: np.ndarray


def draw_veins(rng: np.random.Generator, template: Template) -> list[Walk]:
    """All veins of one head."""
    surface = _on_surface(rng, template, starts=None, count=int(rng.integers(90, 140)), steps=110, radius_mm=(0.4, 1.1))
    twigs = int(rng.integers(280, 400))
    from_ = surface.points[rng.integers(5, 105, twigs), rng.integers(0, surface.points.shape[1], twigs)]
    branches = _on_surface(rng, template, starts=from_, count=twigs, steps=40, radius_mm=(0.3, 0.6))
    return [*_trunks(rng), surface, branches, _in_sulci(rng, template, int(rng.integers(500, 800))), _medullary(rng)]


def vein_fraction(walks: list[Walk], warp: Warp, grid: Grid) -> np.ndarray:
    """Share of each voxel that is venous blood: (I, J, K) float32, 0..1."""
    middle, along, radius = (np.concatenate(parts) for parts in zip(*(_cylinders(w, warp) for w in walks), strict=True))
    first, last = grid.axis_ends()
    inside = np.all((middle > first + 3) & (middle < last - 3), axis=1)
    return _splat(grid, middle[inside], along[inside], radius[inside])


def _cylinders(walk: Walk, warp: Warp) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps of a walk in head mm: middle (M, 3), vector along (M, 3), radius (M,)."""
    head = warp.to_head(walk.points.reshape(-1, 3)).reshape(walk.points.shape)
    radius = (walk.radius_mm[1:] + walk.radius_mm[:-1]) / 2
    keep = radius > 0
    return (head[1:] + head[:-1])[keep] / 2, np.diff(head, axis=0)[keep], radius[keep]


def _splat(grid: Grid, middle: np.ndarray, along: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Spread the volume of cylinders over SPLATS random points of each, every point to its eight nearest voxels."""
    rng = np.random.default_rng(0)  # only where within a vein its volume is put down
    m = len(middle)
    across = _unit(rng.standard_normal((SPLATS, m, 3))) * (radius * np.sqrt(rng.random((SPLATS, m))))[..., None]
    points = middle + across + (rng.random((SPLATS, m, 1)) - 0.5) * along
    blood = np.pi * radius**2 * np.linalg.norm(along, axis=1) / (SPLATS * np.prod(grid.spacing_mm))
    at = grid.index(points.reshape(-1, 3))
    low = np.floor(at).astype(np.intp)
    part = at - low
    volume = np.zeros(np.prod(grid.shape))
    for corner in np.ndindex(2, 2, 2):
        weight = np.tile(blood, SPLATS) * np.prod(np.where(corner, part, 1 - part), axis=1)
        volume += np.bincount(np.ravel_multi_index((low + corner).T, grid.shape), weight, minlength=volume.size)
    return np.minimum(volume, 1).astype(np.float32).reshape(grid.shape)


def _trunks(rng: np.random.Generator) -> list[Walk]:
    walks = []
    for nodes, first, last in TRUNKS:
        for side in (1, -1) if max(abs(p[0]) for p in nodes) > 0 else (1,):
            points = np.array(nodes, float) * (side, 1, 1)
            points[1:-1] += rng.normal(0, 1.0, points[1:-1].shape)  # ends stay, so that veins meet
            line = _spline(points)
            radius = np.linspace(first, last, len(line)) * rng.uniform(0.8, 1.2)
            walks.append(Walk(line[:, None], radius[:, None]))
    return walks


def _spline(points: np.ndarray) -> np.ndarray:
    """A smooth line through points (P, 3), about STEP_MM between its points."""
    from scipy.interpolate import CubicSpline

    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return CubicSpline(along, points)(np.linspace(0, along[-1], int(along[-1] / STEP_MM) + 2))


def _lookup(field: np.ndarray, template: Template, points: np.ndarray) -> np.ndarray:
    """Values of a `half` map (C, I, J, K) or (I, J, K) at points (N, 3): (N, C) or (N,)."""
    at = template.half.index(points).T
    if field.ndim == 3:
        return map_coordinates(field, at, order=1, mode="nearest")
    return np.stack([map_coordinates(f, at, order=1, mode="nearest") for f in field], axis=1)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6)


def _on_surface(rng, template: Template, starts, count: int, steps: int, radius_mm: tuple[float, float]) -> Walk:
    """Walks along the brain's surface that keep their direction, drift to the sinus above or behind, and thicken on the way."""
    if starts is None:
        rim = np.argwhere(np.abs(template.brain_mm) < 1.0)
        starts = rim[rng.integers(0, len(rim), count)] * template.half.spacing_mm + template.half.origin_mm
    point, heading, turn = starts.copy(), _unit(rng.standard_normal((count, 3))), rng.standard_normal((count, 3))
    drain = np.where(point[:, 2:] > -8, (0.0, -0.2, 1.0), (0.0, -1.0, 0.4))
    depth = rng.uniform(-8.0, 0.0, count)  # mm: the mask's surface lies outside the gyri
    path = [point]
    for _ in range(steps - 1):
        normal = _unit(_lookup(template.outward, template, point))
        turn = 0.85 * turn + 0.5 * rng.standard_normal((count, 3))
        heading = heading + 0.12 * turn + 0.03 * drain + 0.8 * _lookup(template.to_fluid, template, point)
        heading = _unit(heading - np.sum(heading * normal, axis=1, keepdims=True) * normal)
        off = _lookup(template.brain_mm, template, point) - depth
        point = point + STEP_MM * heading - 0.4 * np.clip(off, -1, 1)[:, None] * normal
        path.append(point)
    grown = np.linspace(0.35, 1, steps)[:, None] * rng.uniform(*radius_mm, count)
    return Walk(np.stack(path), grown)


def _in_sulci(rng, template: Template, count: int) -> Walk:
    """Walks from the surface down into the sulci, thinning."""
    rim = np.argwhere((np.abs(template.brain_mm) < 1.5) & (template.half.axis_mm(2) > -60))
    point = rim[rng.integers(0, len(rim), count)] * template.half.spacing_mm + template.half.origin_mm
    heading = -_unit(_lookup(template.outward, template, point))
    path = [point]
    for _ in range(39):
        pull = _lookup(template.to_fluid, template, point)
        heading = _unit(heading + 2.0 * pull + 0.18 * rng.standard_normal((count, 3)))
        point = point + STEP_MM * heading
        path.append(point)
    step = np.arange(40)[:, None]
    ends = rng.integers(10, 40, count)
    radius = np.where(step < ends, 1 - 0.6 * step / ends, 0) * rng.uniform(0.3, 0.8, count)
    return Walk(np.stack(path), radius)


def _medullary(rng: np.random.Generator) -> Walk:
    """Nearly straight walks out of the ventricle's edge through the white matter, up and outwards, thinning."""
    count = int(rng.integers(50, 100))
    wall = _spline(np.array(WALL, float))
    side = rng.choice([-1, 1], count)[:, None] * [1, 0, 0] + [0, 1, 1]
    point = wall[rng.integers(0, len(wall), count)] + rng.normal(0, 1.0, (count, 3))
    heading = _unit(np.stack([rng.uniform(0.5, 1.2, count), rng.normal(0, 0.35, count), rng.uniform(-0.2, 0.9, count)], axis=1))
    path = [point]
    for _ in range(39):
        heading = _unit(heading + 0.06 * rng.standard_normal((count, 3)))
        point = point + STEP_MM * heading
        path.append(point)
    step = np.arange(40)[:, None]
    ends = rng.integers(14, 40, count)
    radius = np.where(step < ends, 1 - 0.6 * step / ends, 0) * rng.uniform(0.22, 0.5, count)
    return Walk(np.stack(path) * side, radius)
