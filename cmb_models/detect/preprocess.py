"""From a scan as stored to the images the networks see. Order: reorient, check, resample, normalise, pad."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cmb_models.config.params import Preprocess
from cmb_models.detect.checks import check_grid, check_scan
from cmb_models.detect.phase import check_phase, resolve_offset_and_sign, unit_phasors
from cmb_models.errors import InputError
from cmb_models.volume import Volume

log = logging.getLogger(__name__)

SAME_GRID = 0.01  # spacings that differ by less than this share are not resampled: 1 mm over a 100 mm brain, below half a voxel


@dataclass(frozen=True)
class Prepared:
    """image: (I, J, K) float32 on the working grid, padded, normalised. affine: (4, 4), working index to RAS mm.

    shape: extent before padding; voxels beyond it are padding. phase: (I, J, K) float32 on the same grid, radians, above 0 as in
    veins, 0 in the padding (phase.py); None where it is not used.
    """

    image: np.ndarray
    affine: np.ndarray
    shape: tuple[int, int, int]
    phase: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the working grid, along i, j and k."""
        di, dj, dk = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(di), float(dj), float(dk)

    @property
    def air(self) -> float:
        """The image's lowest value: the value of absent signal, and of everything beyond the edge. Reads the whole image."""
        return float(self.image.min())


def prepare(volume: Volume, settings: Preprocess, case: str, phase: Volume | None = None) -> Prepared:
    """Check a scan and bring it to the working grid and intensity scale. Raises InputError naming `case`.

    phase: the scan's phase image as stored, on the same grid. Needed with settings.phase; otherwise it is left aside, so that who
    always sends both goes on when a release with phase is rolled back to one without.
    """
    stored = volume
    check_grid(volume, case, settings.spacing_mm)  # before anything is done that takes memory
    volume = volume.to_ras()  # first, so that a scan passes or fails the checks however its axes are stored
    check_scan(volume, case)
    grid = resample(volume, settings.spacing_mm)
    image = normalise(grid.data, settings, case)
    padding = [(0, -size % multiple) for size, multiple in zip(image.shape, settings.multiple_vox, strict=True)]
    padded = np.pad(image, padding, constant_values=image.min())
    if not settings.phase:
        if phase is not None:
            log.info("%s: its phase image is left aside, since it is not used here", case)
        return Prepared(padded, grid.affine, image.shape)
    return Prepared(
        padded, grid.affine, image.shape, np.pad(_phase(phase, stored, Volume(image, grid.affine), settings, case), padding)
    )


def _phase(phase: Volume | None, stored: Volume, grid: Volume, settings: Preprocess, case: str) -> np.ndarray:
    """Phase (I, J, K) float32 in radians on the working grid; `grid` is the normalised SWI there, `stored` the SWI as stored."""
    if phase is None:
        raise InputError(
            "phase-missing",
            case,
            "a phase image with the SWI, since this release uses phase",
            "none",
            "add the scan's phase series",
        )
    check_phase(phase, stored, case)
    vectors = unit_phasors(phase.data, case)
    real, imaginary = (Volume(part, stored.affine).to_ras() for part in (vectors.real, vectors.imag))
    vectors = resample_vectors(real, imaginary, settings.spacing_mm)
    return resolve_offset_and_sign(vectors, grid.data, grid.spacing_mm, case)


def resample(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Linear interpolation to another spacing along the same axes, over the same field of view.

    Axes made coarser are smoothed first (sigma of (factor - 1) / 2 voxels, scikit-image's rule), or small lesions would be
    missed between samples. The affine keeps every world position.
    """
    factor = np.asarray(spacing_mm) / volume.spacing_mm
    if np.all(np.abs(factor - 1) < SAME_GRID):
        return volume
    factor = np.where(np.abs(factor - 1) < SAME_GRID, 1.0, factor)
    # Half a voxel rounds down: rounded up, the last new voxel's centre would lie on the old edge, outside every old voxel.
    shape = tuple(max(1, math.ceil(size / f - 0.5 - 1e-6)) for size, f in zip(volume.data.shape, factor, strict=True))
    smooth = ndimage.gaussian_filter(volume.data, sigma=np.maximum(0, (factor - 1) / 2), truncate=3, mode="nearest")
    # The first new voxel's centre lies half a new voxel inside the edge of the first old one.
    first = (factor - 1) / 2
    data = ndimage.affine_transform(smooth, factor, offset=first, output_shape=shape, order=1, mode="nearest")
    to_old = np.diag([*factor, 1.0])
    to_old[:3, 3] = first
    return Volume(data, volume.affine @ to_old)


def resample_vectors(real: Volume, imaginary: Volume, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """`resample` of vectors exp(i phase), given as their two parts on one grid: phase itself jumps at its wraps.

    Returns:
        The vectors on the grid that `resample` gives, (I, J, K) complex64.
    """
    return resample(real, spacing_mm).data + np.complex64(1j) * resample(imaginary, spacing_mm).data


def normalise(data: np.ndarray, settings: Preprocess, case: str) -> np.ndarray:
    """Centre intensities on the head's median and scale them by its 5th to 95th percentile range, then clip. (I, J, K) float32.

    Percentiles of the foreground alone, so that neither the amount of air nor a few bright vessels shift the scale.
    """
    foreground = data[data > settings.foreground_fraction * np.percentile(data, 99)]
    if foreground.size < 1000:  # a 1 cm cube at 1 mm: no head is that small
        raise InputError(
            "scan-no-head", case, "a head in the picture", f"{foreground.size} voxels above the background", "check the export"
        )
    p5, median, p95 = np.percentile(foreground, [5, 50, 95])
    if p95 <= p5:
        raise InputError("scan-no-head", case, "tissue contrast", "a head of one single intensity", "pass the SWI, not a mask")
    scaled: np.ndarray = np.clip((data - median) / (p95 - p5), -settings.clip, settings.clip)
    return scaled.astype(np.float32)
