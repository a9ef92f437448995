"""From a scan as stored to the images the networks see. Order: reorient, check, resample, normalise, pad."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.config.params import Preprocess
from cmb_models.detect.checks import check_grid, check_voxels
from cmb_models.detect.phase import check_phase_voxels, check_same_grid, resolve_offset_and_sign, unit_phasors
from cmb_models.errors import InputError
from cmb_models.volume import Volume, ras_orientation, spacing_of, triple

log = logging.getLogger(__name__)

ROUNDING_VOX = 1e-3  # headers hold affines in single precision: of 600 voxels at half size, up to 7e-5 of a voxel at the end
SAME_GRID = 0.01  # spacings that differ by less than this share are not resampled: 1 mm over a 100 mm brain, below half a voxel


class Raster(NamedTuple):
    """Voxels (I, J, K) float32 or complex64, of any Arrays, and their affine (4, 4), index to RAS mm."""

    data: Array
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j and k, in mm."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Prepared:
    """image: (I, J, K) float32 on the working grid, padded, normalised. affine: (4, 4), working index to RAS mm.

    shape: extent before padding; voxels beyond it are padding. phase: (I, J, K) float32 on the same grid, radians, above 0 as in
    veins, 0 in the padding (phase.py); None where it is not used. Both are of the Arrays that prepared them.
    """

    image: Array
    affine: np.ndarray
    shape: tuple[int, int, int]
    phase: Array | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the working grid, along i, j and k."""
        return Raster(self.image, self.affine).spacing_mm

    @property
    def air(self) -> float:
        """The image's lowest value: the value of absent signal, and of everything beyond the edge. Reads the whole image."""
        return float(self.image.min())


def prepare(volume: Volume, settings: Preprocess, case: str, phase: Volume | None = None, arrays: Arrays = NUMPY) -> Prepared:
    """Check a scan and bring it to the working grid and intensity scale. Raises InputError naming `case`.

    phase: the scan's phase image as stored, on the same grid. Needed with settings.phase; otherwise it is ignored, so that a client
    that always sends both still works when a release with phase is rolled back to one without. arrays: where the work is done; the
    images returned are of it.
    """
    check_grid(volume, case, settings.spacing_mm)  # before anything is done that takes memory
    stored = arrays.array(volume.data)
    # Reoriented first, so that a scan passes or fails the checks however its axes are stored.
    orientation, affine = ras_orientation(volume.affine, volume.data.shape)
    scan = Raster(arrays.oriented(stored, orientation), affine)
    check_voxels(scan.data, case, arrays)
    grid = resample_raster(scan, settings.spacing_mm, arrays)
    image = normalise(grid.data, settings, case, arrays)
    shape = triple(image.shape)
    padding = [-size % multiple for size, multiple in zip(shape, settings.multiple_vox, strict=True)]
    padded = arrays.padded(image, padding, float(image.min()))
    if not settings.phase:
        if phase is not None:
            log.info("%s: its phase image is left aside, since it is not used here", case)
        return Prepared(padded, grid.affine, shape)
    if phase is None:
        raise InputError(
            "phase-missing",
            case,
            "a phase image with the SWI, since this release uses phase",
            "none",
            "add the scan's phase series",
        )
    check_same_grid(phase, volume, case)
    numbers = arrays.array(phase.data)
    check_phase_voxels(numbers, stored, case, arrays)
    vectors = arrays.oriented(unit_phasors(numbers, case, arrays), orientation)
    on_grid = _resampled_vectors(Raster(vectors, affine), settings.spacing_mm, arrays)
    radians = resolve_offset_and_sign(on_grid, image, grid.spacing_mm, case, arrays)
    return Prepared(padded, grid.affine, shape, arrays.padded(radians, padding, 0.0))


def resample(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Linear interpolation to another spacing along the same axes, over the same field of view (`smooth_and_interpolate`).

    The affine keeps every world position.
    """
    grid = resample_raster(Raster(volume.data, volume.affine), spacing_mm)
    return volume if grid.data is volume.data else Volume(grid.data, grid.affine)


def resample_raster(raster: Raster, spacing_mm: tuple[float, float, float], arrays: Arrays = NUMPY) -> Raster:
    """`resample` for an image of any Arrays."""
    factor = np.asarray(spacing_mm) / raster.spacing_mm
    if np.all(np.abs(factor - 1) < SAME_GRID):
        return raster
    factor = np.where(np.abs(factor - 1) < SAME_GRID, 1.0, factor)
    # Half a voxel rounds down: rounded up, the last new voxel's centre would lie on the old edge, outside every old voxel.
    shape = triple(max(1, math.ceil(size / f - 0.5 - ROUNDING_VOX)) for size, f in zip(raster.data.shape, factor, strict=True))
    to_old = np.diag([*factor, 1.0])
    to_old[:3, 3] = (factor - 1) / 2
    return Raster(arrays.resampled(raster.data, factor, shape), raster.affine @ to_old)


def resample_vectors(real: Volume, imaginary: Volume, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """`resample` of vectors exp(i phase), given as their two parts on one grid: phase itself jumps at its wraps.

    Returns:
        The vectors on the grid that `resample` gives, (I, J, K) complex64.
    """
    vectors = Raster(real.data + np.complex64(1j) * imaginary.data, real.affine)
    resampled: np.ndarray = _resampled_vectors(vectors, spacing_mm, NUMPY)
    return resampled


def _resampled_vectors(vectors: Raster, spacing_mm: tuple[float, float, float], arrays: Arrays) -> Array:
    real, imaginary = (
        resample_raster(Raster(part, vectors.affine), spacing_mm, arrays).data for part in (vectors.data.real, vectors.data.imag)
    )
    joined: Array = real + 1j * imaginary
    return joined


def normalise(data: Array, settings: Preprocess, case: str, arrays: Arrays = NUMPY) -> Array:
    """Centre intensities on the head's median and scale them by its 5th to 95th percentile range, then clip. (I, J, K) float32.

    Percentiles of the foreground alone, so that neither the amount of air nor a few bright vessels shift the scale.
    """
    (bright,) = arrays.percentiles(data, [99])
    foreground = data[data > settings.foreground_fraction * bright]
    if len(foreground) < 1000:  # a 1 cm cube at 1 mm: no head is that small
        raise InputError(
            "scan-no-head", case, "a head in the picture", f"{len(foreground)} voxels above the background", "check the export"
        )
    p5, median, p95 = arrays.percentiles(foreground, [5, 50, 95])
    if p95 <= p5:
        raise InputError("scan-no-head", case, "tissue contrast", "a head of one single intensity", "pass the SWI, not a mask")
    scaled: Array = ((data - median) / (p95 - p5)).clip(-settings.clip, settings.clip)
    return arrays.float32(scaled)
