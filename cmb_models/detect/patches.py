"""The patches stage 2 sees: cut here in training, evaluation and serving alike."""

from __future__ import annotations

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.detect.preprocess import Prepared


def cut_patches(
    image: Array, index: np.ndarray, size_vox: tuple[int, int, int], fill: float | None = None, arrays: Arrays = NUMPY
) -> Array:
    """Cut a patch around each index.

    image: (I, J, K) float32, of `arrays` as the result is. index: (N, 3) integers; voxel `size // 2` of a patch is the indexed one.
    Beyond the image's edge patches are filled with `fill`, by default the image's lowest value. Returns (N, 1, *size_vox) float32,
    (0, 1, *size_vox) for no indices.
    """
    size = np.asarray(size_vox)
    before = size // 2
    # Filling per patch rather than padding the image keeps a whole-head scan from being copied for a few patches.
    if fill is None:
        fill = float(image.min()) if 0 not in image.shape else 0.0
    patches = arrays.full((len(index), 1, *size_vox), fill)
    for patch, centre in zip(patches[:, 0], np.asarray(index, dtype=np.int64), strict=True):
        start = centre - before
        low, high = np.maximum(start, 0), np.minimum(start + size, image.shape)
        if np.all(low < high):
            source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            patch[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))] = image[source]
    return patches


def cut_channels(
    prepared: Prepared, index: np.ndarray, size_vox: tuple[int, int, int], air: float | None = None, arrays: Arrays = NUMPY
) -> Array:
    """Patches (N, C, *size_vox) float32 around each index (N, 3): channel 0 the image, 1 the phase of a scan that has it.

    Beyond the edge lies `air`, by default the image's lowest value, and phase 0. (0, C, *size_vox) for no indices.
    """
    patches = cut_patches(prepared.image, index, size_vox, air, arrays)
    if prepared.phase is None:
        return patches
    return arrays.joined([patches, cut_patches(prepared.phase, index, size_vox, 0.0, arrays)], axis=1)
