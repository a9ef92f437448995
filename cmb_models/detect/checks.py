"""Refusing what is not an SWI head scan, before any network sees it."""

from __future__ import annotations

import numpy as np

from cmb_models.errors import InputError
from cmb_models.volume import Volume

MIN_EXTENT_MM = 20.0  # less than a fifth of a brain along any axis cannot be judged
MAX_SPACING_MM = 6.0  # thicker slices than any SWI protocol in FACTS: a 2-10 mm lesion vanishes between them
MAX_NEGATIVE_FRACTION = 0.05  # SWI is a magnitude times a mask in [0, 1]; resampling may ring slightly below zero


def check_scan(volume: Volume, case: str) -> None:
    """Raise InputError naming `case` unless the volume can be an SWI scan.

    Refused: NaN or infinite voxels, constant volumes, negative intensities (phase images), too small or too coarse a field of
    view, and inverted contrast (bright air around a darker head).
    """
    data = volume.data
    if min(data.shape) < 2:
        raise InputError(case, "a 3D volume", f"shape {data.shape}", "pass the whole stack of slices, not one slice")
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise InputError(case, "finite voxels", f"{bad} NaN or infinite ones", "set the background to 0 and check the export")
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise InputError(case, "an SWI scan", f"a constant volume (every voxel is {low:g})", "check the export")
    _check_geometry(volume, case)
    negative = np.count_nonzero(data < 0) / data.size
    if negative > MAX_NEGATIVE_FRACTION:
        got = f"{negative:.0%} negative voxels (a phase or field image?)"
        raise InputError(case, "SWI intensities of 0 and above", got, "pass the SWI series, not phase")
    _check_contrast(data, case)


def _check_geometry(volume: Volume, case: str) -> None:
    extent = np.asarray(volume.spacing_mm) * volume.data.shape
    if max(volume.spacing_mm) > MAX_SPACING_MM:
        got = "x".join(f"{s:.2f}" for s in volume.spacing_mm) + " mm"
        raise InputError(case, f"voxels of at most {MAX_SPACING_MM:g} mm", got, "use an SWI series with thinner slices")
    if extent.min() < MIN_EXTENT_MM:
        got = "x".join(f"{e:.0f}" for e in extent) + " mm"
        raise InputError(case, f"a field of view of at least {MIN_EXTENT_MM:g} mm", got, "pass the whole scan")


def _check_contrast(data: np.ndarray, case: str) -> None:
    """Whole heads have dark air in their corners; corners brighter than the middle mean an inverted image."""
    edge = [max(1, s // 12) for s in data.shape]
    i, j = edge[0], edge[1]
    corners = np.concatenate([data[a, b].ravel() for a in (slice(0, i), slice(-i, None)) for b in (slice(0, j), slice(-j, None))])
    middle = data[tuple(slice(s // 3, max(s // 3 + 1, 2 * s // 3)) for s in data.shape)]
    if np.median(corners) > 1.5 * np.median(middle) + 1e-6:
        got = "corners brighter than the middle (inverted contrast?)"
        raise InputError(case, "dark air around a brighter head", got, "pass the SWI as the scanner made it")
