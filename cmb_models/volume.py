"""The Volume class: a scan's voxels with their affine, and conversions between voxel indices and scanner space.

Conventions of the whole project: arrays are indexed (i, j, k); an affine maps a voxel index to millimetres in the scanner's RAS+
frame (x to the right, y to the front, z to the top); the affine's origin is the centre of voxel (0, 0, 0).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

# Prepared, a stored voxel takes 14 bytes besides its 4 on the wire and 4 in the step (measured): 2.8 GB at this limit, which is
# twice the finest whole-head SWI known to us (512 x 512 x 192).
MAX_VOXELS = 2**27
UNPLACED = "neither qform nor sform: places are voxel indices of the file alone, millimetres and sides are unknown"
REAL = "biuf"  # NumPy dtype kinds of real numbers
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A 3D image in scanner space.

    Two volumes are equal if their affines and all voxels are equal; NaN equals NaN. Volumes are not hashable.

    Args:
        data: Voxels, (I, J, K), any orientation. Converted to float32; float32 data are not copied.
        affine: (4, 4), voxel index to scanner RAS mm, converted to float64. May be oblique or left-handed; see `to_ras`.
        in_scanner: False where it is not known how the image lies in the scanner: the affine then has its voxel sizes alone.

    Raises:
        ValueError: If data are not three-dimensional or not real numbers, or the affine is not finite and invertible.
    """

    data: np.ndarray
    affine: np.ndarray
    in_scanner: bool = True

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        if data.ndim != 3:
            raise ValueError(f"expected a volume (I, J, K), got an array of shape {data.shape}")
        if data.dtype.kind not in REAL:
            raise ValueError(f"expected one real number per voxel, got {data.dtype}")
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"expected a finite (4, 4) affine, got {affine.tolist()}")
        if not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"expected an affine whose last row is 0, 0, 0, 1, got {affine[3].tolist()}")
        with np.errstate(over="ignore", invalid="ignore"):
            determinant = np.linalg.det(affine[:3, :3])
        if not 1e-9 <= abs(determinant) < np.inf:
            raise ValueError(f"expected an invertible affine, got {affine.tolist()}")
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which detect.checks rejects
            object.__setattr__(self, "data", np.asarray(data, dtype=np.float32))
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Volume):
            return NotImplemented
        return np.array_equal(self.affine, other.affine) and np.array_equal(self.data, other.data, equal_nan=True)

    def __repr__(self) -> str:
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing_mm)
        return f"Volume(shape={self.data.shape}, spacing={spacing} mm, orientation={self.orientation})"

    @classmethod
    def from_nibabel(cls, image: SpatialImage) -> Volume:
        """Create a volume from a nibabel image.

        Args:
            image: One 3D image; trailing axes of length 1 are dropped. Its scaling is applied.

        Raises:
            ValueError: If the image has several volumes, or the volume is invalid.
        """
        if any(size != 1 for size in image.shape[3:]):
            raise ValueError(f"expected one 3D volume, got an image of shape {image.shape}")
        if image.get_data_dtype().kind not in REAL:
            raise ValueError(f"expected one real number per voxel, got {image.get_data_dtype()}")
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which detect.checks rejects
            data = np.asarray(image.dataobj, dtype=np.float32)
        return cls(data.reshape(data.shape[:3]), image.affine)

    def to_nibabel(self, dtype: type = np.float32) -> nib.Nifti1Image:
        """Convert to a NIfTI image in mm and scanner space (sform and qform).

        Args:
            dtype: Type of the stored voxels; values are converted, not scaled.
        """
        image = nib.Nifti1Image(np.asarray(self.data, dtype=dtype), self.affine)
        image.header.set_xyzt_units("mm")
        # The image keeps its affine in float64; the header rounds it to float32.
        image.set_sform(self.affine, code="scanner", update_affine=False)
        image.set_qform(self.affine, code="scanner", update_affine=False)
        if not np.allclose(image.get_qform(), self.affine, atol=1e-3):  # it holds no shear
            image.set_qform(None, code=0)
        return image

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j and k, in mm."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """The anatomical direction nearest to each increasing index, such as "RAS" or "LPS"."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def to_ras(self) -> Volume:
        """The same voxels with the axes permuted and flipped to the nearest RAS+ order; nothing is resampled."""
        orientation, affine = ras_orientation(self.affine, self.data.shape)
        data = np.ascontiguousarray(nib.orientations.apply_orientation(self.data, orientation))
        return Volume(data, affine, self.in_scanner)


def triple(values: Iterable[Value]) -> tuple[Value, Value, Value]:
    """Convert three values, such as one per axis, to a tuple."""
    i, j, k = values
    return i, j, k


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance between neighbouring voxel centres along i, j and k in mm, by an affine (4, 4)."""
    di, dj, dk = np.linalg.norm(affine[:3, :3], axis=0)
    return float(di), float(dj), float(dk)


def corners_apart_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm between the same corners of an image (I, J, K) placed by two affines (4, 4)."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    difference = one - other
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def ras_orientation(affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """How an image's axes are flipped and permuted to the nearest RAS+ order, and its affine then.

    Args:
        affine: (4, 4), voxel index to RAS mm.
        shape: Of the image, (I, J, K).

    Returns:
        nibabel's orientation (3, 2), the output axis and the sign (1 or -1) of each axis; the affine (4, 4) of the result.
    """
    orientation = nib.orientations.io_orientation(affine)
    return orientation, affine @ nib.orientations.inv_ornt_aff(orientation, shape)


def world_from_index(index: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Convert voxel indices (N, 3), may be fractional, to RAS mm (N, 3). N may be 0."""
    index = np.asarray(index, dtype=np.float64).reshape(-1, 3)
    world_mm: np.ndarray = index @ affine[:3, :3].T + affine[:3, 3]
    return world_mm


def index_from_world(world_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Convert RAS mm (N, 3) to fractional voxel indices (N, 3). N may be 0."""
    world_mm = np.asarray(world_mm, dtype=np.float64).reshape(-1, 3)
    index: np.ndarray = (world_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    return index


# Input of a detector: an image, or the path of one.
ScanLike = Volume | SpatialImage | str | os.PathLike[str]
