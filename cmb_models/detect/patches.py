"""The patches stage 2 sees: cut here in training, evaluation and serving alike."""

from __future__ import annotations

import numpy as np

from cmb_models.detect.preprocess import Prepared


def cut_patches(image: np.ndarray, index: np.ndarray, size_vox: tuple[int, int, int], fill: float | None = None) -> np.ndarray:
    """Cut a patch around each index.

    image: (I, J, K) float32. index: (N, 3) integers; voxel `size // 2` of a patch is the indexed one. Beyond the image's edge
    patches are filled with `fill`, by default the image's lowest value. Returns (N, 1, *size_vox) float32, (0, 1, *size_vox) for
    no indices.
    """
    size = np.asarray(size_vox)
    before = size // 2
    # Filling per patch rather than padding the image keeps a whole-head scan from being copied for a few patches.
    if fill is None:
        fill = image.min() if image.size else 0.0
    patches = np.full((len(index), 1, *size_vox), fill, dtype=np.float32)
    for patch, centre in zip(patches[:, 0], np.asarray(index, dtype=np.int64), strict=True):
        start = centre - before
        low, high = np.maximum(start, 0), np.minimum(start + size, image.shape)
        if np.all(low < high):
            source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            patch[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))] = image[source]
    return patches


def cut_channels(prepared: Prepared, index: np.ndarray, size_vox: tuple[int, int, int], air: float | None = None) -> np.ndarray:
    """Patches (N, C, *size_vox) float32 around each index (N, 3): channel 0 the image, 1 the phase of a scan that has it.

    Beyond the edge lies `air`, by default the image's lowest value, and phase 0. (0, C, *size_vox) for no indices.
    """
    patches = cut_patches(prepared.image, index, size_vox, air)
    if prepared.phase is None:
        return patches
    return np.concatenate([patches, cut_patches(prepared.phase, index, size_vox, 0.0)], axis=1)
