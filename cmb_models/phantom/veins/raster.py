"""A head's veins as a scan sees them: their share of each voxel, and where they look like microbleeds."""

from __future__ import annotations

import numpy as np

from cmb_models.phantom.grid import Grid
from cmb_models.phantom.head.warp import ToTemplate, Warp
from cmb_models.phantom.veins.forest import SINUS, Veins
from cmb_models.phantom.veins.growth import draw_veins
from cmb_models.phantom.veins.paths import unit

__all__ = ["Veins", "cross_sections", "draw_veins", "junctions", "vein_fraction"]

DOT_RADIUS_MM, DOT_DEGREES, DOT_PIECES = 0.35, 25.0, 5  # a vein seen as a dot: this thick, within this of the normal, over 4 mm
DOT_APART = 8  # points between two dots on one vein, 6 mm
FORK_MM = 0.3  # radius of a branch whose parting shows
SAMPLES_PER_VOXEL = 48.0  # of a voxel full of blood; no piece has fewer than MIN_SAMPLES
MIN_SAMPLES = 16
MARGIN_VOX = 12  # a piece this far outside the grid may reach into it: the radius of a sinus, in small voxels
SPREAD = (0.7548776662466927, 0.5698402909980532)  # 1/g, 1/g^2, g^3 = g + 1: steps that fill a square evenly


def vein_fraction(veins: Veins, warp: ToTemplate, grid: Grid) -> np.ndarray:
    """Share of each voxel that is venous blood: (I, J, K) float32, 0..1.

    Every piece is a cylinder, filled with evenly spread samples that put their volume into the voxel they lie in.
    """
    head = grid.index(warp.to_head(veins.points_mm)).astype(np.float32)  # in voxels: what is left is to count
    spacing = np.array(grid.spacing_mm, np.float32)
    from_, own = veins.pieces
    start, radius = head[from_], veins.radius_mm[own].astype(np.float32)
    along = (head[own] - start) * spacing
    share = np.pi * radius**2 * np.linalg.norm(along, axis=1) / np.float32(np.prod(grid.spacing_mm))
    near = np.all((start > -MARGIN_VOX) & (start < np.array(grid.shape) + MARGIN_VOX), axis=1)
    count = np.where(near, np.maximum(MIN_SAMPLES, share * SAMPLES_PER_VOXEL), 0).astype(np.intp)
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    w = (nth + np.float32(0.5)) / np.repeat(count.astype(np.float32), count)  # along the piece, evenly: no slice goes short
    away, angle = np.sqrt(_spread(len(w), SPREAD[0])), _spread(len(w), SPREAD[1]) * np.float32(2 * np.pi)
    w, cos, sin = w.astype(np.float32), away * np.cos(angle), away * np.sin(angle)
    one, other = (side * radius[:, None] for side in _across(along))
    flat, inside = np.zeros(len(w), np.int32), np.ones(len(w), bool)
    for a, n in enumerate(grid.shape):
        at = np.repeat(start[:, a], count)
        for part, side in ((w, along), (cos, one), (sin, other)):
            at += part * np.repeat(side[:, a] / spacing[a], count)
        voxel = np.rint(at).astype(np.int32)
        inside &= (voxel >= 0) & (voxel < n)
        flat = flat * np.int32(n) + voxel
    blood = np.repeat((share / np.maximum(count, 1)).astype(np.float32), count)
    fraction = np.zeros(int(np.prod(grid.shape)), np.float32)
    np.add.at(fraction, flat[inside], blood[inside])
    return np.minimum(fraction, 1, out=fraction).reshape(grid.shape)


def _spread(count: int, step: float) -> np.ndarray:
    """Multiples of `step` less their whole parts, (count,) float32 in 0..1; whole numbers of 32 bits wrap by themselves."""
    return (np.arange(count, dtype=np.uint32) * np.uint32(step * 2**32)).astype(np.float32) * np.float32(2**-32)


def _across(along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (M, 3) across each of `along` (M, 3), and across one another."""
    helper = np.eye(3, dtype=np.float32)[np.argmin(np.abs(along), axis=1)]
    one = unit(np.cross(along, helper))
    return one, unit(np.cross(along, one))


def cross_sections(veins: Veins, warp: Warp, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a vein runs through slices with this normal (3,) so straight that it appears as a dot in them.

    Head mm (N, 3) and the vein's radius (N,): middles of stretches of DOT_PIECES pieces. No sinuses.
    """
    head = warp.to_head(veins.points_mm)
    step = np.diff(head, axis=0, prepend=head[:1])
    through = np.abs(unit(step) @ unit(np.asarray(normal, float))) > np.cos(np.deg2rad(DOT_DEGREES))
    good = through & ~veins.is_first & (veins.radius_mm >= DOT_RADIUS_MM) & (veins.kind != SINUS)
    n = np.arange(len(good))
    began = np.maximum.accumulate(np.where(good, -1, n)) + 1  # of the run of good pieces that each belongs to
    half = DOT_PIECES // 2
    runs_on = np.zeros(len(good), bool)
    runs_on[: len(good) - half] = good[half:] & (began[half:] <= n[: len(good) - half] - half)
    dots = np.flatnonzero(runs_on & ((n - began - half) % DOT_APART == 0))
    return head[dots], veins.radius_mm[dots]


def junctions(veins: Veins, warp: Warp) -> tuple[np.ndarray, np.ndarray]:
    """Where a branch of FORK_MM or more leaves a vein that is no sinus: head mm (N, 3) and the parent's radius (N,)."""
    parent, branch = veins.junctions
    shows = (veins.radius_mm[branch] >= FORK_MM) & (veins.kind[parent] != SINUS)
    at = np.unique(parent[shows])
    return warp.to_head(veins.points_mm[at]), veins.radius_mm[at]
