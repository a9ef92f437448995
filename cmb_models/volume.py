"""A scan in memory: voxels and where they lie in the scanner.

Conventions of the whole project: arrays are indexed (i, j, k); an affine maps a voxel index to millimetres in the
scanner's RAS+ frame (x to the right, y to the front, z to the top); voxel (0, 0, 0) has its CENTRE at the affine's origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np


@dataclass(frozen=True)
class Volume:
    """A 3D image in its scanner's space.

    data: (I, J, K) float32. affine: (4, 4) float64, voxel index to RAS mm. Any orientation, oblique and
    left-handed affines included; `to_ras` gives the canonical one.
    """

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"expected a volume (I, J, K), got an array of shape {self.data.shape}")
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"expected a finite (4, 4) affine, got {affine.tolist()}")
        if not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"expected an affine whose last row is 0, 0, 0, 1, got {affine[3].tolist()}")
        with np.errstate(over="ignore", invalid="ignore"):
            determinant = np.linalg.det(affine[:3, :3])
        if not 1e-9 <= abs(determinant) < np.inf:
            raise ValueError(f"expected an invertible affine, got {affine.tolist()}")
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j and k, in mm."""
        di, dj, dk = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(di), float(dj), float(dk)

    def to_ras(self) -> Volume:
        """The same voxels with the axes permuted and flipped to the nearest RAS+ order; nothing is resampled."""
        orientation = nib.orientations.io_orientation(self.affine)
        data = nib.orientations.apply_orientation(self.data, orientation)
        affine = self.affine @ nib.orientations.inv_ornt_aff(orientation, self.data.shape)
        return Volume(np.ascontiguousarray(data), affine)


def world_from_index(index: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel indices (N, 3), fractions allowed, to RAS mm (N, 3). Empty in, empty out."""
    index = np.asarray(index, dtype=np.float64).reshape(-1, 3)
    return index @ affine[:3, :3].T + affine[:3, 3]


def index_from_world(world_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """RAS mm (N, 3) to voxel indices (N, 3) with fractions. Empty in, empty out."""
    world_mm = np.asarray(world_mm, dtype=np.float64).reshape(-1, 3)
    return (world_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
