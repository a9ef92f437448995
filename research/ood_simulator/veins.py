"""Veins that grow towards tissue without one (space colonisation, Runions 2007), and a few known ones as wandering curves.

Calibre falls with the length of the way still to go, not by a law of branching; all figures are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from research.ood_simulator.anatomy import Head

STEP_MM = 1.5  # length of a piece of vein
FILL = 14.0  # random points a mm3 of vein, so that a voxel's share is known to a few per cent
LEAST_POINTS = 5.0  # a mm of vein, however thin
# Known veins of the right side: corners in the textbook's head (mm), radii at both ends.
KNOWN = (
    (((3, 22, 13), (3, 10, 17), (2.5, -8, 17), (1.5, -22, 12)), (0.7, 1.1)),  # internal cerebral
    (((16, -4, 22), (13, 8, 20), (7, 19, 16), (3, 22, 13)), (0.4, 0.8)),  # thalamostriate
    (((3, 22, 13), (3, 32, 15), (5, 42, 12), (10, 48, 14)), (0.7, 0.35)),  # septal
    (((14, 8, -15), (19, -4, -11), (16, -16, -4), (6, -24, 6), (1.5, -24, 11)), (0.6, 1.0)),  # basal
    (((40, 24, -14), (50, 12, -8), (55, -6, 2), (58, -22, 10)), (0.6, 1.0)),  # superficial middle cerebral
)
SINUSES = (  # of the middle, and of the right side
    (((0, 72, 22), (0, 50, 58), (0, 15, 73), (0, -30, 71), (0, -70, 48), (0, -86, 10)), (1.5, 3.2)),  # superior sagittal
    (((0, -22, 12), (0, -34, 12), (0, -58, 8), (0, -85, 4)), (1.6, 2.4)),  # great cerebral vein and straight sinus
    (((0, -86, 6), (30, -78, -8), (55, -48, -18), (58, -28, -24)), (2.4, 3.0)),  # transverse
)


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of vein: ends (N, 3) in mm of the head, radius (N,) in mm."""

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray

    def joined(self, *others: Tubes) -> Tubes:
        every = (self, *others)
        return Tubes(*(np.concatenate([getattr(t, name) for t in every]) for name in ("start", "end", "radius")))


def draw_veins(rng: np.random.Generator, head: Head) -> Tubes:
    """All veins of a head: those of its white matter, of its sulci, of its nuclei and the known ones."""
    density, calibre = rng.uniform(0.7, 1.4), rng.uniform(0.75, 1.2)
    white = (head.region == 1) & (head.ventricle > -32)
    rim = (np.abs(head.ventricle + 1) < 0.8) & (head.inside > 25)
    sulci = (head.pial < 1.2) & (head.depth < 24) & (head.depth > -2) & (head.inside > 1)
    surface = (np.abs(head.depth) < 1.0) & (head.pial < 1) & (head.inside > 1)
    deep = _grow(rng, _some(rng, head, rim, 45), _some(rng, head, white, int(3500 * density)), (0.12, 0.45 * calibre), 15.0)
    shallow = _grow(rng, _some(rng, head, surface, 70), _some(rng, head, sulci, int(5000 * density)), (0.16, 0.8 * calibre), 12.0)
    nuclei = np.isin(head.region, (4, 5))
    inner = _grow(rng, _some(rng, head, nuclei, 14), _some(rng, head, nuclei, int(120 * density)), (0.12, 0.4 * calibre), 9.0)
    return _known(rng, head, KNOWN, calibre).joined(deep, shallow, inner)


def draw_sinuses(rng: np.random.Generator, head: Head) -> Tubes:
    return _known(rng, head, SINUSES, rng.uniform(0.8, 1.2))


def _some(rng: np.random.Generator, head: Head, mask: np.ndarray, count: int) -> np.ndarray:
    """Random places (n, 3) in mm inside a mask (I, J, K), n at most `count`."""
    at = np.flatnonzero(mask)
    chosen = rng.choice(at, min(count, len(at)), replace=False)
    index = np.stack(np.unravel_index(chosen, mask.shape), axis=1)
    return head.place(index + rng.uniform(-0.5, 0.5, index.shape))


def _grow(rng: np.random.Generator, roots: np.ndarray, wanted: np.ndarray, radii: tuple[float, float], reach_mm: float) -> Tubes:
    """Trees from `roots` (R, 3) towards places `wanted` (A, 3), each of which draws the nearest vein within `reach_mm`, mm."""
    nodes, parent, heading = roots, np.full(len(roots), -1), np.zeros_like(roots)
    for _ in range(90):
        if not len(wanted):
            break
        away, nearest = cKDTree(nodes).query(wanted, distance_upper_bound=reach_mm)
        wanted, nearest = wanted[away > 2 * STEP_MM], nearest[away > 2 * STEP_MM]
        drawn = nearest < len(nodes)
        pull = np.zeros_like(nodes)
        np.add.at(pull, nearest[drawn], _unit(wanted[drawn] - nodes[nearest[drawn]]))
        tips = np.unique(nearest[drawn])
        ahead = _unit(_unit(pull[tips]) + 0.6 * heading[tips] + 0.35 * rng.standard_normal((len(tips), 3)))
        new = nodes[tips] + STEP_MM * ahead
        free = cKDTree(nodes).query(new)[0] > 0.6 * STEP_MM if len(new) else np.zeros(0, dtype=bool)
        if not free.any():
            break
        nodes, parent = np.concatenate([nodes, new[free]]), np.concatenate([parent, tips[free]])
        heading = np.concatenate([heading, ahead[free]])
    return _tapered(rng, nodes, parent, radii)


def _tapered(rng: np.random.Generator, nodes: np.ndarray, parent: np.ndarray, radii: tuple[float, float]) -> Tubes:
    """Pieces from each node to its parent, wider the longer the way to the farthest tip."""
    to_tip = np.zeros(len(nodes))
    for n in range(len(nodes) - 1, -1, -1):
        if parent[n] >= 0:
            to_tip[parent[n]] = max(to_tip[parent[n]], to_tip[n] + 1)
    tree = parent.copy()
    for n in range(len(nodes)):  # a parent comes before its children
        tree[n] = n if parent[n] < 0 else tree[parent[n]]
    own = rng.lognormal(0, 0.3, len(nodes))[tree]
    radius = own * (radii[0] + (radii[1] - radii[0]) * np.minimum(1, to_tip * STEP_MM / 40) ** 0.8)
    there = parent >= 0
    return Tubes(nodes[parent[there]], nodes[there], radius[there])


def _known(rng: np.random.Generator, head: Head, veins: tuple, calibre: float) -> Tubes:
    """Smooth curves through the textbook's corners, each moved a little, on both sides."""
    parts = []
    for corners, (first, last) in veins:
        for side in (-1, 1) if any(c[0] for c in corners) else (1,):
            through = np.array(corners, dtype=float) * (side, 1, 1) + rng.normal(0, 0.8, (len(corners), 3))
            at = np.linspace(0, len(corners) - 1, 14 * (len(corners) - 1))
            path = head.from_textbook(CubicSpline(np.arange(len(corners)), through)(at))
            path += np.cumsum(rng.normal(0, 0.08, path.shape), axis=0)
            radius = calibre * np.linspace(first, last, len(path) - 1) * rng.uniform(0.8, 1.2)
            parts.append(Tubes(path[:-1], path[1:], radius))
    return parts[0].joined(*parts[1:])


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def share(rng: np.random.Generator, tubes: Tubes, to_index: np.ndarray, shape: tuple[int, ...], voxel_mm3: float) -> np.ndarray:
    """Share of vein in each voxel, (shape) float32 in [0, 1]: random points in the tubes, spread over their eight voxels.

    to_index: (4, 4), head mm to voxel index.
    """
    length = np.linalg.norm(tubes.end - tubes.start, axis=1)
    volume = np.pi * tubes.radius**2 * length
    count = np.ceil(np.maximum(FILL * volume, LEAST_POINTS * length)).astype(int)
    along = _unit(tubes.end - tubes.start)
    across = _unit(np.cross(along, np.where(np.abs(along[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])))
    own = np.repeat(np.arange(len(count)), count)
    t, turn, out = rng.random(len(own)), 2 * np.pi * rng.random(len(own)), np.sqrt(rng.random(len(own)))
    out *= tubes.radius[own]
    where = tubes.start[own] + t[:, None] * (tubes.end - tubes.start)[own]
    where += (out * np.cos(turn))[:, None] * across[own] + (out * np.sin(turn))[:, None] * np.cross(along, across)[own]
    index = where @ to_index[:3, :3].T + to_index[:3, 3]
    return np.minimum(_spread(index, (volume / count)[own] / voxel_mm3, shape), 1)


def _spread(index: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Weights (N,) at fractional indices (N, 3) shared out linearly among neighbours, (shape) float32; none outside."""
    keep = np.all((index >= 0) & (index < np.array(shape) - 1), axis=1)
    low = np.floor(index[keep]).astype(int)
    rest, weight = index[keep] - low, weight[keep]
    total = np.zeros(int(np.prod(shape)))
    for corner in np.ndindex(2, 2, 2):
        part = np.prod(np.where(np.array(corner) == 1, rest, 1 - rest), axis=1)
        total += np.bincount(np.ravel_multi_index((low + corner).T, shape), weight * part, len(total))
    return total.reshape(shape).astype(np.float32)
