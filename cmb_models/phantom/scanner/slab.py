"""Where a scan's voxels lie: the turned box of voxels, the head in it, and the scanner around both.

Three frames, all in mm and right-handed: the head (in which a subject is drawn), the slab (voxel axes, its centre the field of
view's), and the scanner's world (RAS, its field along z). At a subject's first time point head and world are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import RigidTransform, Rotation

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.grid import Grid, acquired_grid, fine_grid
from cmb_models.phantom.head.warp import Warp
from cmb_models.volume import triple


@dataclass(frozen=True)
class Slab:
    """acquired, fine: the scan's and the simulation's voxels in slab mm, guards included. kept: voxels without the guards."""

    config: PhantomConfig
    acquired: Grid
    fine: Grid
    to_head: RigidTransform
    to_world: RigidTransform

    @property
    def kept(self) -> tuple[slice, slice, slice]:
        """The scan's own voxels within `acquired`."""
        i, j, k = (slice(g, n - g) for g, n in zip(self.config.guard_vox, self.acquired.shape, strict=True))
        return i, j, k

    @property
    def kept_grid(self) -> Grid:
        """The voxels that are stored."""
        first = triple(float(self.acquired.axis_mm(a)[g]) for a, g in enumerate(self.config.guard_vox))
        return Grid(self.config.shape, self.acquired.spacing_mm, first)

    @property
    def b0(self) -> np.ndarray:
        """Unit vector (3,) of the scanner's field along the slab's axes."""
        return self.to_world.rotation.inv().apply([0.0, 0.0, 1.0])

    @property
    def normal_in_head(self) -> np.ndarray:
        """Unit vector (3,) across the slices, in the head's frame."""
        return self.to_head.rotation.apply([0.0, 0.0, 1.0])

    def from_head(self, head_mm: np.ndarray) -> np.ndarray:
        """Head mm (N, 3) to slab mm (N, 3)."""
        return self.to_head.inv().apply(head_mm)

    def world_from_head(self, head_mm: np.ndarray) -> np.ndarray:
        """Head mm (N, 3) to scanner RAS mm (N, 3)."""
        return self.to_world.apply(self.from_head(head_mm))

    def holds(self, head_mm: np.ndarray, margin_mm: float) -> np.ndarray:
        """Which points (N, 3) lie within the field of view, margin_mm from its faces: (N,) bool."""
        return np.all(np.abs(self.from_head(head_mm)) < np.array(self.config.fov_mm) / 2 - margin_mm, axis=1)

    def affine(self) -> np.ndarray:
        """(4, 4), index of a kept voxel to RAS mm."""
        return self.to_world.as_matrix() @ self.kept_grid.affine()


@dataclass(frozen=True)
class SlabWarp:
    """A head's warp as a slab sees it: `Warp` with slab mm instead of head mm."""

    warp: Warp
    slab: Slab

    def template_coordinates(self, grid: Grid) -> np.ndarray:
        """Template mm (3, I, J, K) float32 of every voxel of a grid in slab mm."""
        axes = np.meshgrid(*(grid.axis_mm(a) for a in range(3)), indexing="ij")
        head = self.slab.to_head.apply(np.stack(axes, -1).reshape(-1, 3))
        return self.warp.to_template(head).T.reshape(3, *grid.shape).astype(np.float32)

    def to_head(self, template_mm: np.ndarray) -> np.ndarray:
        """Template mm (N, 3) to slab mm (N, 3)."""
        return self.slab.from_head(self.warp.to_head(template_mm))


def make_slab(config: PhantomConfig, pose: RigidTransform | None = None, laid: RigidTransform | None = None) -> Slab:
    """Create the slab of a time point.

    Args:
        config: The protocol.
        pose: Transform from head mm to scanner RAS mm; None for the identity.
        laid: Deviation of the slab from the protocol's position on the head, about the slab's centre; None for none.
    """
    turn = Rotation.from_euler("xyz", config.oblique_deg, degrees=True)
    to_head = RigidTransform.from_components(np.array(config.fov_centre_mm), turn)
    if laid is not None:
        to_head = to_head * laid
    acquired = acquired_grid(config)
    to_world = to_head if pose is None else pose * to_head
    return Slab(config, acquired, fine_grid(acquired, config.fine_mm), to_head, to_world)
