"""Training patches turned, tilted and scaled: a vein or a lesion in another course and size is still one.

Done while the patch is cut, so that nothing beyond its edge is made up. Any turn within the slices and a small tilt out of them,
since the field runs across slices, nearly, and a dipole tilted far would be none that a scanner makes.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.detect.preprocess import Prepared
from cmb_models.volume import world_from_index

TILT_DEG = 8.0  # standard deviation about an axis within the slices: heads lie that differently
ZOOM = 0.15  # largest change of scale along each axis: heads and voxels differ by about this


def draw_matrix(spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """(3, 3): steps of a warped patch's voxels as steps of the scan's, both (i, j, k) of spacing_mm."""
    spin = Rotation.from_euler("z", rng.uniform(0, 360), degrees=True)
    tilt = Rotation.from_rotvec([*rng.normal(0, TILT_DEG, 2), 0.0], degrees=True)
    zoom = np.exp(rng.uniform(-ZOOM, ZOOM, 3))
    spacing = np.asarray(spacing_mm)
    return ((tilt * spin).as_matrix() * zoom) * spacing / spacing[:, None]


def to_scan(matrix: np.ndarray, middle_vox: np.ndarray, size_vox: tuple[int, int, int]) -> np.ndarray:
    """(4, 4): indices of a patch to indices of the scan, such that voxel `size // 2` of the patch lies on middle_vox (3,)."""
    whole = np.eye(4)
    whole[:3, :3] = matrix
    whole[:3, 3] = middle_vox - matrix @ (np.asarray(size_vox) // 2)
    return whole


def extent(patch_to_scan: np.ndarray, size_vox: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest index (3,), with fractions, of the scan that a patch of this size reaches."""
    corners = np.stack(np.meshgrid(*((0, s) for s in size_vox), indexing="ij"), -1)
    reached = world_from_index(corners, patch_to_scan)
    return reached.min(axis=0), reached.max(axis=0)


def warped_channels(prepared: Prepared, patch_to_scan: np.ndarray, size_vox: tuple[int, int, int], air: float) -> np.ndarray:
    """One patch (C, *size_vox) as detect.patches.cut_channels cuts it, warped; phase by its unit vector, since it wraps."""
    swi, phase = cut_warped(prepared.image, patch_to_scan, size_vox, air), prepared.phase
    if phase is None:
        return swi[None]
    low, high = extent(patch_to_scan, size_vox)
    low = np.clip(np.floor(low).astype(int), 0, np.array(phase.shape) - 1)
    near = phase[tuple(slice(a, b) for a, b in zip(low, np.maximum(low, np.ceil(high).astype(int)) + 1, strict=True))]
    window = patch_to_scan - np.pad(low[:, None], ((0, 1), (3, 0)))
    cosine, sine = cut_warped(np.cos(near), window, size_vox, 1.0), cut_warped(np.sin(near), window, size_vox, 0.0)
    return np.stack([swi, np.arctan2(sine, cosine)])


def cut_warped(image: np.ndarray, patch_to_scan: np.ndarray, size_vox: tuple[int, int, int], fill: float) -> np.ndarray:
    """A patch (*size_vox) float32 of an image (I, J, K), linearly interpolated; `fill` beyond its edge."""
    matrix, offset = patch_to_scan[:3, :3], patch_to_scan[:3, 3]
    return ndimage.affine_transform(image, matrix, offset, tuple(size_vox), np.float32, order=1, mode="constant", cval=fill)
