"""Where each head's points lie in the template: an affine map plus a smooth displacement, both drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cmb_models.phantom.grid import Grid, apply_along, lookup, resample
from cmb_models.phantom.head.template import HALF_MM, load_template
from cmb_models.phantom.head.traits import Traits

BOX_MM = 128.0  # nodes reach this far from the origin along each axis: beyond any head
NODE_MM = 16.0  # between nodes of a head's own shape: wide enough that no fold can form at DISPLACEMENT_MM
FINE_NODE_MM = 4.0  # between the nodes stored: the ventricles' walls move within some millimetres
DISPLACEMENT_MM = 2.0  # standard deviation: gyri move, lobes stay (assumed)
SPLINE_SPREAD = 0.69**3  # of a cubic B-spline's values per coefficient's: root of the sum of squared weights, along three axes
FLOW_STEPS = 4  # of up to a millimetre each
CLOSE_MM = 0.005  # where the search for the inverse stops
FIXED_STEPS, NEWTON_STEPS = 8, 20  # of that search at most; the latter are for the few places where the shape is strained most
LEAP_MM = 2.0  # the longest of Newton's steps along an axis


class ToTemplate(Protocol):
    """How places in some frame, the head's or a slab's, and template mm map onto each other."""

    def template_coordinates(self, grid: Grid) -> np.ndarray:
        """Template mm (3, I, J, K) float32 of every voxel of a grid in that frame."""
        ...

    def to_head(self, template_mm: np.ndarray) -> np.ndarray:
        """Template mm (N, 3) to mm (N, 3) in that frame."""
        ...


@dataclass(frozen=True)
class Warp:
    """template = matrix @ head + offset + displacement(head), all in mm; displacement (3, I, J, K) on `nodes`, linear between."""

    matrix: np.ndarray
    offset: np.ndarray
    displacement: np.ndarray
    nodes: Grid

    def template_coordinates(self, grid: Grid) -> np.ndarray:
        """Template mm (3, I, J, K) float32 of every voxel of a grid."""
        moved = resample(self.displacement, self.nodes, grid)
        x, y, z = (grid.axis_mm(a).astype(np.float32) for a in range(3))
        for a in range(3):
            row = self.matrix[a].astype(np.float32)
            moved[a] += (row[0] * x + np.float32(self.offset[a]))[:, None, None] + (row[1] * y)[:, None] + row[2] * z
        return moved

    def to_template(self, head_mm: np.ndarray) -> np.ndarray:
        """Head mm (N, 3) to template mm (N, 3)."""
        return head_mm @ self.matrix.T + self.offset + self._shift(head_mm)

    def to_head(self, template_mm: np.ndarray) -> np.ndarray:
        """Template mm (N, 3) to head mm (N, 3), to some CLOSE_MM: by fixed-point iteration, and Newton's where that is slow."""
        inverse = np.linalg.inv(self.matrix)
        target = np.asarray(template_mm, float)
        head = (target - self.offset) @ inverse.T
        moving = np.arange(len(head))
        for n in range(FIXED_STEPS + NEWTON_STEPS):
            missed = target[moving] - self.to_template(head[moving])
            if n < FIXED_STEPS:
                step = missed @ inverse.T
            else:
                step = np.clip(np.linalg.solve(self._slope(head[moving]), missed[..., None])[..., 0], -LEAP_MM, LEAP_MM)
            head[moving] += step
            moving = moving[np.abs(step).max(axis=1) > CLOSE_MM]
            if not len(moving):
                break
        return head

    def _slope(self, head_mm: np.ndarray) -> np.ndarray:
        """Derivative (N, 3, 3) of the template's place by the head's."""
        steps = np.eye(3) * 0.5  # of a mm: across the kinks that linear interpolation has at the nodes
        return np.stack([self.to_template(head_mm + s) - self.to_template(head_mm - s) for s in steps], axis=2)

    def _shift(self, head_mm: np.ndarray) -> np.ndarray:
        return lookup(self.displacement, self.nodes, head_mm)


def draw_warp(rng: np.random.Generator, traits: Traits) -> Warp:
    """A head's own size, tilt and shape, with its ventricles as wide as its traits say."""
    rotation = Rotation.from_euler("xyz", rng.normal(0, [5.0, 2.5, 2.5]), degrees=True).as_matrix()
    scale = np.diag(rng.normal(1.0, 0.025) * rng.normal(1.0, 0.02, 3))
    shear = np.eye(3) + np.triu(rng.normal(0, 0.02, (3, 3)), 1)
    matrix = rotation @ scale @ shear
    pivot = np.array([0.0, -17.0, 5.0])  # centre of the brain in MNI space: heads turn about it
    offset = pivot + rng.normal(0, 1.5, 3) - matrix @ pivot
    wide, nodes = box_grid(NODE_MM), box_grid(FINE_NODE_MM)
    shape = _smooth(rng.normal(0, DISPLACEMENT_MM / SPLINE_SPREAD, (3, *wide.shape)).astype(np.float32), wide, nodes)
    shaped = Warp(matrix, offset, shape, nodes).template_coordinates(nodes)
    return Warp(matrix, offset, shape + _ventricles_widened(shaped, traits.ventricle_mm), nodes)


def box_grid(step_mm: float) -> Grid:
    """Nodes over the box that holds any head."""
    count = round(2 * BOX_MM / step_mm) + 1
    return Grid((count,) * 3, (step_mm,) * 3, (-BOX_MM,) * 3)


def _smooth(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Cubic B-spline with coefficients (3, I, J, K) on `source`, on `target`: linear steps would bend skulls at the nodes."""
    for axis in range(3):
        at = (target.axis_mm(axis) - source.origin_mm[axis]) / source.spacing_mm[axis]
        away = np.abs(at[:, None] - np.arange(source.shape[axis]))
        weights = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.maximum(2 - away, 0) ** 3 / 6)
        values = apply_along(values, weights.astype(np.float32), axis - 3)
    return values


def _ventricles_widened(template_mm: np.ndarray, by_mm: float) -> np.ndarray:
    """How far to move template places (3, I, J, K) towards the ventricles: fluid looked up from further in makes them wider.

    Small steps along a smooth field cannot fold, however many they are.
    """
    template = load_template()
    start = template.half.index(template_mm.reshape(3, -1).T).T

    def field(at: np.ndarray) -> np.ndarray:
        return np.stack([map_coordinates(f, at, order=1, mode="constant", output=np.float32) for f in template.to_ventricles])

    near = np.flatnonzero(np.abs(field(start)).sum(0) > 1e-3)
    at = start[:, near]
    for _ in range(FLOW_STEPS):
        at += field(at) * (by_mm / FLOW_STEPS / HALF_MM)
    moved = np.zeros(start.shape, np.float32)
    moved[:, near] = (at - start[:, near]) * HALF_MM
    return moved.reshape(template_mm.shape)
