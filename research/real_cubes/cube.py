"""A cube from the three planes through its middle, by spherical interpolation."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # of the axial, coronal and sagittal plane: the two in it, and its normal


def one_scale(planes: np.ndarray) -> np.ndarray:
    """Planes (3, N, N) with the coronal and the sagittal one brought to the axial one's grey values, float32.

    Each is multiplied by the ratio of sums over the line that it shares with the axial plane; left as it is where that line is 0.
    """
    axial, coronal, sagittal = planes
    middle = axial.shape[0] // 2
    shared = (axial[:, middle], coronal[:, middle]), (axial[middle], sagittal[:, middle])
    factors = [float(one.sum() / other.sum()) if other.any() else 1.0 for one, other in shared]
    return np.stack([axial, coronal * factors[0], sagittal * factors[1]]).astype(np.float32)


def assemble(planes: np.ndarray) -> np.ndarray:
    """A cube (N, N, N) float32 from its axial (x, y), coronal (x, z) and sagittal (y, z) middle planes (3, N, N), N odd.

    A voxel at radius r from the middle takes from each plane the value at radius r in the direction nearest to its own, linearly
    between pixels, weighted by the squared cotangent of its direction's angle to the plane. So the cube equals the planes on
    them (their mean where two cross), and a cube whose values depend on the radius alone is restored. A circle's parts beyond a
    plane's edge take the nearest pixel.
    """
    side = planes.shape[1]
    offset = np.arange(side, dtype=np.float64) - side // 2
    axes = np.meshgrid(offset, offset, offset, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    total, weights = np.zeros(radius.shape), np.zeros(radius.shape)
    on_planes, planes_here = np.zeros(radius.shape), np.zeros(radius.shape)
    for plane, (a, b, normal) in zip(planes, AXES, strict=True):
        within = np.hypot(axes[a], axes[b])
        stretch = np.divide(radius, within, out=np.zeros_like(radius), where=within > 0)
        at = np.stack([axes[a] * stretch, axes[b] * stretch]) + side // 2
        values = ndimage.map_coordinates(plane.astype(np.float64), at.reshape(2, -1), order=1, mode="nearest").reshape(radius.shape)
        here = axes[normal] == 0
        weight = np.divide(within**2, axes[normal] ** 2, out=np.zeros_like(radius), where=~here)
        total, weights = total + weight * values, weights + weight
        on_planes, planes_here = on_planes + here * values, planes_here + here
    between = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    return np.where(planes_here > 0, on_planes / np.maximum(planes_here, 1), between).astype(np.float32)


def middle_planes(cube: np.ndarray) -> np.ndarray:
    """Axial, coronal and sagittal middle plane (3, N, N) of a cube (N, N, N)."""
    middle = cube.shape[0] // 2
    return np.stack([cube[:, :, middle], cube[:, middle], cube[middle]])
