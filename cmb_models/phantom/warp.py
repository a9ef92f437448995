"""Where each head's points lie in the template: an affine map plus a smooth displacement, both drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cmb_models.phantom.grid import Grid, resample

NODE_MM = 16.0  # between displacement nodes: wide enough that no fold can form at DISPLACEMENT_MM
DISPLACEMENT_MM = 2.0  # standard deviation at a node: gyri move, lobes stay


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

    def to_head(self, template_mm: np.ndarray) -> np.ndarray:
        """Template mm (N, 3) to head mm (N, 3), by fixed-point iteration to some 0.01 mm."""
        inverse = np.linalg.inv(self.matrix)
        head = (template_mm - self.offset) @ inverse.T
        for _ in range(6):
            at = self.nodes.index(head).T
            shift = np.stack([map_coordinates(d, at, order=1, mode="nearest") for d in self.displacement], axis=1)
            head = (template_mm - self.offset - shift) @ inverse.T
        return head


def draw_warp(rng: np.random.Generator, grid: Grid) -> Warp:
    """A head's own size, tilt and shape."""
    rotation = Rotation.from_euler("xyz", rng.normal(0, [5.0, 2.5, 2.5]), degrees=True).as_matrix()
    scale = np.diag(rng.normal(1.0, 0.025) * rng.normal(1.0, 0.02, 3))
    shear = np.eye(3) + np.triu(rng.normal(0, 0.02, (3, 3)), 1)
    nodes = grid.coarse(NODE_MM)
    displacement = rng.normal(0, DISPLACEMENT_MM, (3, *nodes.shape)).astype(np.float32)
    pivot = np.array([0.0, -17.0, 5.0])  # centre of the brain in MNI space: heads turn about it
    matrix = rotation @ scale @ shear
    return Warp(matrix, pivot + rng.normal(0, 1.5, 3) - matrix @ pivot, displacement, nodes)
