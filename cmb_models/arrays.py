"""The array work of `detect`, by NumPy; runtime/torch_arrays.py has the same by torch, for a CUDA device.

`detect` is written once for both. It calls these functions, and uses of the arrays themselves only what NumPy's and torch's share:
slicing, arithmetic, comparison, `min`, `max`, `sum`, `mean`, `clip`, `swapaxes`, `real`, `imag`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import nibabel as nib
import numpy as np

Array = Any  # np.ndarray, or torch.Tensor on the device
NEIGHBOURS = np.asarray(sorted((np.asarray(s) - 1 for s in np.ndindex(3, 3, 3)), key=lambda step: (abs(step).sum(), *step)))[1:]


class Arrays(Protocol):
    """What `detect` needs of an array library. Arrays are (I, J, K) unless stated otherwise."""

    def array(self, values: np.ndarray) -> Array:
        """Copy values to where this library computes; not copied if they are there."""

    def host(self, array: Array) -> np.ndarray:
        """Copy an array to main memory; not copied if it is there."""

    def float32(self, array: Array) -> Array:
        """Convert to float32."""

    def float64(self, array: Array) -> Array:
        """Convert to float64."""

    def is_finite(self, array: Array) -> Array:
        """Neither NaN nor infinite, by element."""

    def percentiles(self, array: Array, q: Sequence[float]) -> Sequence[float]:
        """Percentiles of all elements of a float32 array, linear between the two nearest. NaN without elements."""

    def joined(self, arrays: Sequence[Array], axis: int) -> Array:
        """Concatenate along an axis."""

    def full(self, shape: Sequence[int], value: float) -> Array:
        """A float32 array of one value."""

    def padded(self, array: Array, after: Sequence[int], value: float) -> Array:
        """Append so many voxels of one value along each axis."""

    def oriented(self, array: Array, orientation: np.ndarray) -> Array:
        """Flip and permute axes as `nibabel.orientations.apply_orientation` does; contiguous."""

    def resampled(self, array: Array, factor: np.ndarray, shape: tuple[int, int, int]) -> Array:
        """Sample a float32 array every `factor` voxels along each axis, as `smooth_and_interpolate`."""

    def phasors(self, radians: Array) -> Array:
        """Unit vectors exp(i radians), complex64."""

    def angle(self, vectors: Array) -> Array:
        """Angles of complex vectors in radians, float32, -pi to pi."""

    def sine(self, radians: Array) -> Array:
        """Sine by element."""

    def closed(self, array: Array, size: Sequence[int]) -> Array:
        """Grey closing by a box of `size` voxels."""

    def level(self, heatmap: Array, floor: float, most: int) -> float:
        """The lowest level of at least `floor` that at most `most` voxels reach."""

    def peaks(self, heatmap: Array, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Voxels of at least `level` that are no lower than their 26 neighbours: index (N, 3) in C order, and value (N,)."""


def smooth_and_interpolate(array: np.ndarray, factor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation every `factor` voxels along each axis over the same field of view, in `shape` samples.

    Axes made coarser are smoothed first (sigma of (factor - 1) / 2 voxels, scikit-image's rule), or small lesions would be missed
    between samples. Beyond the edge an image continues with its outermost voxels. It is linear and separable in the axes.
    """
    from scipy import ndimage  # here and below: clients import this module, and have no SciPy

    smooth = ndimage.gaussian_filter(array, sigma=np.maximum(0, (factor - 1) / 2), truncate=3, mode="nearest")
    # The first new voxel's centre lies half a new voxel inside the edge of the first old one.
    sampled: np.ndarray = ndimage.affine_transform(
        smooth, factor, offset=(factor - 1) / 2, output_shape=shape, order=1, mode="nearest"
    )
    return sampled


class NumpyArrays:
    """Arrays by NumPy and SciPy, in main memory."""

    def array(self, values: np.ndarray) -> np.ndarray:
        return values

    def host(self, array: np.ndarray) -> np.ndarray:
        return array

    def float32(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float32)

    def float64(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float64)

    def is_finite(self, array: np.ndarray) -> np.ndarray:
        return np.isfinite(array)

    def percentiles(self, array: np.ndarray, q: Sequence[float]) -> Sequence[float]:
        return tuple(np.percentile(array, q)) if array.size else (math.nan,) * len(q)

    def joined(self, arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    def full(self, shape: Sequence[int], value: float) -> np.ndarray:
        return np.full(shape, value, dtype=np.float32)

    def padded(self, array: np.ndarray, after: Sequence[int], value: float) -> np.ndarray:
        return np.pad(array, [(0, n) for n in after], constant_values=value)

    def oriented(self, array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(nib.orientations.apply_orientation(array, orientation))

    def resampled(self, array: np.ndarray, factor: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        return smooth_and_interpolate(array, factor, shape)

    def phasors(self, radians: np.ndarray) -> np.ndarray:
        return np.exp(1j * radians).astype(np.complex64)

    def angle(self, vectors: np.ndarray) -> np.ndarray:
        return np.angle(vectors).astype(np.float32)

    def sine(self, radians: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.sin(radians)
        return result

    def closed(self, array: np.ndarray, size: Sequence[int]) -> np.ndarray:
        from scipy import ndimage

        result: np.ndarray = ndimage.grey_closing(array, size=tuple(size))
        return result

    def level(self, heatmap: np.ndarray, floor: float, most: int) -> float:
        above = heatmap[heatmap >= floor]
        if len(above) <= most:
            return floor
        highest = np.partition(above, -most)[-most]  # others may equal it
        return float(np.nextafter(highest, np.float32(np.inf)))

    def peaks(self, heatmap: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Works on the sparse set of voxels above the level, so its cost follows what was found, not the volume."""
        flat = np.flatnonzero(heatmap >= level)
        index, score = np.stack(np.unravel_index(flat, heatmap.shape), axis=1), heatmap.ravel()[flat]
        left = np.arange(len(index))  # of a blob's voxels few outlast the first neighbours, which are the nearest
        last = np.asarray(heatmap.shape) - 1
        for step in NEIGHBOURS:
            neighbour = np.clip(index[left] + step, 0, last)
            left = left[score[left] >= heatmap[tuple(neighbour.T)]]
        return index[left], score[left]


NUMPY = NumpyArrays()
