"""Refusing what is not an SWI head scan, before any network sees it."""

from __future__ import annotations

import math

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.errors import InputError
from cmb_models.volume import MAX_VOXELS, Volume

MIN_EXTENT_MM = 20.0  # less than a fifth of a brain along any axis cannot be judged
MAX_EXTENT_MM = 1000.0  # four heads in a row: more is a voxel size in another unit
MIN_SPACING_MM = 0.1  # half of what 7 T reaches; below it the header's unit is not mm
MAX_SPACING_MM = 6.0  # thicker slices than in any SWI protocol known to us: a 2-10 mm lesion vanishes between them
MAX_ORIGIN_OFFSET_MM = (
    1e4  # 10 m off the scanner's centre: headers' odd origins pass, numbers that leave no digit for a voxel do not
)
MAX_SKEW = 0.1  # cosine between two axes: 6 degrees off a right angle. Scanners give 0, a registration's shear a little
# Stage 1 takes 350 to 410 bytes for each voxel of the working grid in ONNX Runtime on a CPU (measured): 10 GB at this limit.
# A head of 250 x 250 x 200 mm has 6 million at 1 x 1 x 2 mm.
MAX_GRID_VOXELS = 24_000_000
MIN_NEIGHBOUR_CORRELATION = (
    0.4  # correlation of neighbouring voxels along the best axis; simulated whole heads .92 and up, inner fifths .67, noise 0
)
# Of a sliding minimum over n slices, n - 1 of n + 1 neighbours are equal: .33 for 2 slices, .78 for 8. Of noisy images hardly any.
REPEATED = 0.3
MOST_OTHERWISE = 0.1  # along the other axes: images with few grey levels have equal neighbours along all
MAX_NEGATIVE_FRACTION = 0.05  # SWI is a magnitude times a mask in [0, 1]; resampling may ring slightly below zero


def check_scan(volume: Volume, case: str) -> None:
    """Raise InputError naming `case` unless the volume, in RAS+ order, can be an SWI scan: `check_grid` and `check_voxels`."""
    check_grid(volume, case)
    check_voxels(volume.data, case)


def check_voxels(data: Array, case: str, arrays: Arrays = NUMPY) -> None:
    """Raise InputError naming `case` unless voxels (I, J, K) float32 in RAS+ order can be those of an SWI scan.

    Refused: NaN or infinite voxels, constant volumes, negative intensities (phase images), inverted contrast (bright air around a
    darker head), phase images stored from 0 up, projections over several slices, and noise without anything in it.
    """
    bad = math.prod(data.shape) - int(arrays.is_finite(data).sum())
    if bad:
        remedy = "set the background to 0 (`cmb import --nan-as-air`) and check the export"
        raise InputError("scan-not-finite", case, "finite voxels", f"{bad} NaN or infinite ones", remedy)
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise InputError("scan-constant", case, "an SWI scan", f"a constant volume (every voxel is {low:g})", "check the export")
    negative = int((data < 0).sum()) / math.prod(data.shape)
    if negative > MAX_NEGATIVE_FRACTION:
        got = f"{100 * negative:.0f} % negative voxels (a phase or field image?)"
        raise InputError("scan-intensity", case, "SWI intensities of 0 and above", got, "pass the SWI series, not phase")
    _check_structure(data, case, arrays)
    _check_contrast(data, case, arrays)
    _check_slices(data, case)


def check_grid(volume: Volume, case: str, working_mm: tuple[float, float, float] | None = None) -> None:
    """Raise InputError naming `case` for a shape or an affine that no head scan has; reads no voxel, so it costs nothing.

    working_mm: spacing of the grid that the scan will be brought to, whose size is then judged too: few voxels many millimetres
    apart would become more than a machine holds.
    """
    shape = volume.data.shape
    if min(shape) < 2:
        raise InputError("scan-geometry", case, "a 3D volume", f"shape {shape}", "pass the whole stack of slices, not one slice")
    if volume.data.size > MAX_VOXELS:
        got = f"{volume.data.size / 1e6:.0f} million ({'x'.join(map(str, shape))})"
        raise InputError(
            "scan-too-large", case, f"at most {MAX_VOXELS / 1e6:.0f} million voxels", got, "crop it to the head or resample it"
        )
    _check_spacing(volume, case)
    _check_origin_and_axes(volume, case)
    if working_mm is not None:
        extent = np.asarray(volume.spacing_mm) * shape
        voxels = float(np.prod(extent / working_mm))
        if voxels > MAX_GRID_VOXELS:
            expected = f"at most {MAX_GRID_VOXELS / 1e6:.0f} million voxels of {'x'.join(f'{s:g}' for s in working_mm)} mm"
            got = f"a field of view of {'x'.join(f'{e:.0f}' for e in extent)} mm, {voxels / 1e6:.0f} million"
            raise InputError("scan-too-large", case, expected, got, "crop it to the head, or correct the voxel size in its header")


def _check_origin_and_axes(volume: Volume, case: str) -> None:
    axes = volume.affine[:3, :3] / volume.spacing_mm
    skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if skew > MAX_SKEW:
        got = f"axes up to {np.degrees(np.arcsin(min(skew, 1))):.0f} degrees off it"
        raise InputError("scan-geometry", case, "axes at right angles", got, "export it as the scanner made it, or resample it")
    farthest = float(np.abs(volume.affine[:3, 3]).max())
    if farthest > MAX_ORIGIN_OFFSET_MM:
        got = f"one {farthest:.3g} mm away"
        raise InputError(
            "scan-geometry",
            case,
            f"a scan within {MAX_ORIGIN_OFFSET_MM:g} mm of the scanner's centre",
            got,
            "correct its header's origin",
        )


def _check_spacing(volume: Volume, case: str) -> None:
    extent = np.asarray(volume.spacing_mm) * volume.data.shape
    if min(volume.spacing_mm) < MIN_SPACING_MM:
        got = "x".join(f"{s:.3g}" for s in volume.spacing_mm) + " mm"
        raise InputError(
            "scan-geometry", case, f"voxels of at least {MIN_SPACING_MM:g} mm", got, "correct the voxel size in its header (in mm?)"
        )
    if max(volume.spacing_mm) > MAX_SPACING_MM:
        got = "x".join(f"{s:.2f}" for s in volume.spacing_mm) + " mm"
        raise InputError(
            "scan-geometry", case, f"voxels of at most {MAX_SPACING_MM:g} mm", got, "use an SWI series with thinner slices"
        )
    if extent.max() > MAX_EXTENT_MM:
        got = "x".join(f"{e:.0f}" for e in extent) + " mm"
        expected, remedy = f"a field of view of at most {MAX_EXTENT_MM:g} mm", "correct the voxel size in its header (in mm?)"
        raise InputError("scan-geometry", case, expected, got, remedy)
    if extent.min() < MIN_EXTENT_MM:
        got = "x".join(f"{e:.0f}" for e in extent) + " mm"
        raise InputError("scan-geometry", case, f"a field of view of at least {MIN_EXTENT_MM:g} mm", got, "pass the whole scan")


def _check_contrast(data: Array, case: str, arrays: Arrays) -> None:
    """Whole heads have dark air in their corners; corners brighter than the middle mean an inverted image."""
    edge = [max(1, s // 12) for s in data.shape]
    i, j = edge[0], edge[1]
    corners = [data[a, b].ravel() for a in (slice(0, i), slice(-i, None)) for b in (slice(0, j), slice(-j, None))]
    low, corner, high = arrays.percentiles(arrays.joined(corners, axis=0), [10, 50, 90])
    inner_low, middle, inner_high = arrays.percentiles(data[_middle(data)], [10, 50, 90])
    if corner > 1.5 * middle + 1e-6:
        got = "corners brighter than the middle (inverted contrast?)"
        raise InputError("scan-contrast", case, "dark air around a brighter head", got, "pass the SWI as the scanner made it")
    # Phase in air is noise over its whole range, far to both sides of what it is in the head.
    if 2 * corner > middle and min(high - middle, middle - low) > 1.5 * (inner_high - inner_low):
        got = "air as bright as the middle, and noisier (a phase image?)"
        raise InputError("scan-intensity", case, "dark air around a brighter head", got, "pass the SWI series, not phase")


def _middle(data: Array) -> tuple[slice, ...]:
    """The middle third along each axis."""
    return tuple(slice(s // 3, max(s // 3 + 1, 2 * s // 3)) for s in data.shape)


def _check_slices(data: Array, case: str) -> None:
    """Slices of a scan are measured one by one; those of a sliding projection share most of their values with the next."""
    inner = data[_middle(data)]
    equal = []
    for axis in range(3):
        along = inner.swapaxes(0, axis)
        pairs = math.prod(along[1:].shape)
        equal.append(int((along[1:] == along[:-1]).sum()) / pairs if pairs else 0.0)
    *others, most = sorted(equal)
    if most > REPEATED and max(others) < MOST_OTHERWISE:
        got = f"{100 * most:.0f} % of its voxels equal to those of the next slice (a minimum intensity projection?)"
        raise InputError("scan-derived", case, "slices of their own", got, "pass the SWI series, not one derived from it")


def _check_structure(data: Array, case: str, arrays: Arrays) -> None:
    """In any picture of a head a voxel resembles its neighbour; in the noise of an empty scan it does not."""
    alike = max(_correlation(data.swapaxes(0, axis), arrays) for axis in range(3))
    if not alike >= MIN_NEIGHBOUR_CORRELATION:
        got = f"noise (neighbouring voxels correlate by {alike:.2f} of {MIN_NEIGHBOUR_CORRELATION:g})"
        raise InputError("scan-no-head", case, "a head in the picture", got, "check the export")


def _correlation(data: Array, arrays: Arrays) -> float:
    """Of the voxels in every eighth slice of (I, J, K) with those in the next; NaN where one of both is constant."""
    step = min(8, len(data) - 1)
    one, other = data[:-1:step], data[1::step]
    (bright,) = arrays.percentiles(one, [99])  # a few hot voxels would outweigh all the others
    one, other = (arrays.float64(values.clip(max=bright)) for values in (one, other))
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
    return float((one * other).sum()) / scale if scale > 0 else math.nan
