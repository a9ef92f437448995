"""The head in a scan, on a grid that is coarse enough to register quickly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cmb_models.volume import Volume, world_from_index

WORKING_MM = 2.0  # registration finds a tenth of this, which is finer than a detection's position
FOREGROUND = 0.15  # of the 99th percentile: air is darker, as in detect.preprocess
SMOOTH_MM = 3.0  # joins tissue across veins and noise before the mask is taken
CLOSED_MM = 10.0  # sinuses and lesions without signal belong to the head


@dataclass(frozen=True)
class Head:
    """A scan reduced to about WORKING_MM along each axis.

    Attributes:
        image: Averaged voxels (I, J, K) in RAS+ order.
        mask: bool (I, J, K), the voxels of the head.
    """

    image: Volume
    mask: np.ndarray

    def points_mm(self) -> np.ndarray:
        """Centres (N, 3) of the head's voxels in RAS mm; N is 0 for an empty mask."""
        return world_from_index(np.argwhere(self.mask), self.image.affine)


def find_head(volume: Volume) -> Head:
    """Reduce a scan and find its head.

    Args:
        volume: (I, J, K) in any orientation, finite.

    Returns:
        The head; its mask is empty for a constant scan.
    """
    image = _reduced(volume.to_ras())
    sigma = SMOOTH_MM / np.asarray(image.spacing_mm)
    smooth = ndimage.gaussian_filter(image.data, sigma)
    bright = smooth > max(FOREGROUND * float(np.percentile(smooth, 99)), 0.0)
    labels, count = ndimage.label(bright)
    if count == 0:
        return Head(image, bright)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    # A closing with a ball, by distances, which does not depend on the grid's spacing.
    spacing = image.spacing_mm
    pad = [(round(CLOSED_MM / s) + 1,) * 2 for s in spacing]
    wide = ndimage.distance_transform_edt(~np.pad(largest, pad), sampling=spacing) <= CLOSED_MM
    closed = ndimage.distance_transform_edt(wide, sampling=spacing) > CLOSED_MM
    inner = tuple(slice(a, -b) for a, b in pad)
    return Head(image, ndimage.binary_fill_holes(closed[inner] | largest))


def _reduced(ras: Volume) -> Volume:
    """Means over whole blocks of voxels, so many along each axis that the spacing stays at most WORKING_MM."""
    factors = [max(1, int(WORKING_MM / s + 1e-6)) for s in ras.spacing_mm]
    factors = [min(f, n) for f, n in zip(factors, ras.data.shape, strict=True)]
    shape = [n // f for f, n in zip(factors, ras.data.shape, strict=True)]
    data = ras.data[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
    blocks = data.reshape([size for pair in zip(shape, factors, strict=True) for size in pair]).mean(axis=(1, 3, 5))
    affine = ras.affine @ np.diag([*factors, 1.0])
    affine[:3, 3] = world_from_index(np.array([[(f - 1) / 2 for f in factors]]), ras.affine)[0]
    return Volume(blocks, affine, ras.in_scanner)
