"""Volumes and affines that are no SWI scan, each with the code and words of its refusal, for the library and a live server."""

from __future__ import annotations

import numpy as np

from tests.support.bundles import AFFINE, head


def _affine(**entries: float) -> np.ndarray:
    """AFFINE with entries replaced: _affine(a22=0) sets row 2, column 2."""
    affine = AFFINE.copy()
    for place, value in entries.items():
        affine[int(place[1]), int(place[2])] = value
    return affine


def _noise(draw: str) -> np.ndarray:
    rng, shape = np.random.default_rng(3), head().data.shape
    draws = {"rayleigh": rng.rayleigh(10, shape), "uniform": rng.uniform(0, 1, shape), "small integers": rng.integers(0, 3, shape)}
    return draws[draw]


def _one_voxel(value: float) -> np.ndarray:
    data = head().data.copy()
    data[40, 40, 16] = value
    return data


HEAD = head().data
FEW = np.tile(HEAD, (2, 2, 4))
REFUSALS = {  # name: (voxels, affine, code, words)
    "no voxels": (HEAD[:0], AFFINE, "scan-geometry", "a 3D volume, got shape"),
    "no slices": (HEAD[:, :, :0], AFFINE, "scan-geometry", "a 3D volume, got shape"),
    "one voxel": (HEAD[:1, :1, :1], AFFINE, "scan-geometry", "a 3D volume, got shape"),
    "one slice": (HEAD[:, :, :1], AFFINE, "scan-geometry", "a 3D volume, got shape"),
    "slab": (HEAD[:, :, :4], AFFINE, "scan-geometry", "a field of view of at least 20 mm"),
    "one NaN": (_one_voxel(np.nan), AFFINE, "scan-not-finite", "finite voxels, got 1 NaN"),
    "one infinity": (_one_voxel(-np.inf), AFFINE, "scan-not-finite", "finite voxels, got 1 NaN"),
    "all NaN": (np.full_like(HEAD, np.nan), AFFINE, "scan-not-finite", "finite voxels"),
    "all air": (np.zeros_like(HEAD), AFFINE, "scan-constant", "an SWI scan, got a constant volume"),
    "rayleigh noise": (_noise("rayleigh"), AFFINE, "scan-no-head", "a head in the picture, got noise"),
    "uniform noise": (_noise("uniform"), AFFINE, "scan-no-head", "a head in the picture, got noise"),
    "integer noise": (_noise("small integers"), AFFINE, "scan-no-head", "a head in the picture, got noise"),
    "one bright voxel": (np.where(HEAD.max() > HEAD, 0, HEAD), AFFINE, "scan-no-head", "a head in the picture"),
    "mask": (HEAD > 300, AFFINE, "scan-no-head", "tissue contrast, got a head of one single intensity"),
    "negative": (-HEAD, AFFINE, "scan-intensity", "SWI intensities of 0 and above, got 100 % negative"),
    "field map": (HEAD - 100, AFFINE, "scan-intensity", "SWI intensities of 0 and above"),
    "inverted": (HEAD.max() - HEAD, AFFINE, "scan-contrast", "inverted contrast"),
    "affine with NaN": (HEAD, _affine(a00=np.nan), "scan-geometry", "a finite (4, 4) affine"),
    "affine with infinity": (HEAD, _affine(a03=np.inf), "scan-geometry", "a finite (4, 4) affine"),
    "affine of zeros": (HEAD, np.zeros((4, 4)), "scan-geometry", "last row is 0, 0, 0, 1"),
    "affine with another last row": (HEAD, _affine(a33=2), "scan-geometry", "last row is 0, 0, 0, 1"),
    "affine that cannot be inverted": (HEAD, _affine(a22=0), "scan-geometry", "an invertible affine"),
    "affine beyond numbers": (HEAD, _affine(a00=1e300, a11=1e300), "scan-geometry", "an invertible affine"),
    "voxels of kilometres": (HEAD, _affine(a22=1e6), "scan-geometry", "voxels of at most 6 mm"),
    "voxels of micrometres": (HEAD, _affine(a22=0.01), "scan-geometry", "voxels of at least 0.1 mm"),
    "far away": (HEAD, _affine(a03=1e30), "scan-geometry", "within 10000 mm of the scanner's centre"),
    "skewed": (HEAD, _affine(a01=0.9), "scan-geometry", "axes at right angles, got axes up to 42 degrees off it"),
    "axes that fall together": (HEAD, _affine(a01=1, a11=1e-6), "scan-geometry", "axes at right angles"),
    "field of view of metres": (
        FEW,
        np.diag([6.0, 6, 6, 1]),
        "scan-too-large",
        "at most 24 million voxels of 1x1x2 mm, got a field",
    ),
}
