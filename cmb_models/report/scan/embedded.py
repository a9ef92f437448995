"""The volume that a report's viewer shows: cropped to the head, 8 bits per voxel, reduced in plane to the size of a page."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from cmb_models.figures.views import View
from cmb_models.volume import triple

MARGIN_MM = 4.0  # around the head, as in its pictures
SAMPLE = 8  # every so many slices one is compressed to estimate the size of all
SPARE = 0.97  # of the bytes that may be used: the estimate is not exact
LEAST_SIDE = 16  # voxels in plane
# Where the volume is too large: noise in air is a third of its bytes, and below this share of the window all looks black.
BLACK = 0.08
COARSE = 128  # grey levels then, whose steps are not visible


@dataclass(frozen=True)
class Embedded:
    """A volume for the viewer.

    Attributes:
        nifti: gzip-compressed NIfTI, uint8 (I, J, K) in the RAS+ order nearest to the scan's axes, as base64.
        spacing_mm: Of its voxels.
        shape: (I, J, K).
        levels: Grey levels: 256, or COARSE with all below BLACK of the window at 0.
        reduced: Whether it has fewer voxels in plane than the scan has there.
        first: Voxel (3,) of the scan, in RAS+ order, at which it begins.
        factor: Voxels (3,) of the scan per voxel of it.
    """

    nifti: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    levels: int
    reduced: bool
    first: np.ndarray
    factor: np.ndarray

    def fraction(self, voxel: Sequence[float] | np.ndarray) -> list[float]:
        """Where a fractional voxel index (3,) of the scan in RAS+ order lies: (3,), 0 and 1 at the outer edges of the volume."""
        inside = (np.asarray(voxel, dtype=float) - self.first + 0.5) / self.factor / self.shape
        return [round(float(part), 6) for part in np.clip(inside, 0, 1)]


def embed(view: View, most_bytes: int) -> Embedded:
    """The volume for the viewer, of at most `most_bytes` as base64, if LEAST_SIDE voxels in plane are so few.

    Intensities are those of the pictures: the view's window from 0 to 255. If that is too large, grey levels become fewer, and if
    that is not enough, voxels are made larger in plane by area averaging. Slices are kept as they are.
    """
    cut = [_range(view, axis) for axis in range(3)]
    low, high = view.window
    grey = np.clip(view.data[tuple(slice(*c) for c in cut)], low, high)  # a copy, which is then scaled in place
    grey -= low
    grey *= 255 / max(high - low, 1e-6)
    voxels = (grey + 0.5).astype(np.uint8)
    first = np.array([c[0] for c in cut])
    largest = most_bytes * 3 // 4  # base64 has four characters for three bytes
    part = voxels[:, :, ::SAMPLE]
    share = voxels.size / part.size
    levels, size = 256, share * len(_gzip(part.tobytes(order="F")))
    if size > SPARE * largest:
        levels, size = COARSE, share * len(_gzip(_coarse(part).tobytes(order="F")))
    scale = min(1.0, np.sqrt(SPARE * largest / size))
    while True:
        shape = _shape(voxels.shape, scale)
        factor = np.array(voxels.shape) / shape
        shown = _reduced(voxels, shape) if levels == 256 else _coarse(_reduced(voxels, shape))
        packed = _gzip(_nifti(shown, _affine(view.affine, first, factor)))
        if len(packed) <= largest or max(shape[:2]) <= LEAST_SIDE:
            break
        scale *= min(0.95, np.sqrt(SPARE * largest / len(packed)))
    spacing_mm = triple((view.spacing_mm * factor).tolist())
    return Embedded(base64.b64encode(packed).decode("ascii"), spacing_mm, shape, levels, shape != voxels.shape, first, factor)


def _coarse(voxels: np.ndarray) -> np.ndarray:
    """Voxels uint8 with COARSE grey levels, below BLACK of the window 0."""
    grey = np.arange(256)
    levels = np.where(grey < 255 * BLACK, 0, grey - grey % (256 // COARSE)).astype(np.uint8)
    return levels[voxels]


def _range(view: View, axis: int) -> tuple[int, int]:
    """First and end voxel of the head with its margin."""
    margin = int(np.ceil(MARGIN_MM / view.spacing_mm[axis]))
    low, high = view.box[axis]
    return max(0, low - margin), min(view.data.shape[axis], high + margin + 1)


def _shape(full: tuple[int, ...], scale: float) -> tuple[int, int, int]:
    i, j = (min(n, max(LEAST_SIDE, round(n * scale))) for n in full[:2])
    return i, j, full[2]


def _reduced(voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Slices (I, J, K) uint8 resampled to a shape in plane, each voxel the mean of what it covers."""
    from PIL import Image

    if voxels.shape == shape:
        return voxels
    box = Image.Resampling.BOX
    slices = [Image.fromarray(np.ascontiguousarray(voxels[:, :, k].T)).resize(shape[:2], box) for k in range(shape[2])]
    return np.stack([np.asarray(s).T for s in slices], axis=2)


def _affine(affine: np.ndarray, first: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Affine (4, 4) of the volume; a larger voxel's centre is the middle of those that it replaces."""
    step = np.eye(4)
    step[:3, :3] = np.diag(factor)
    step[:3, 3] = first + (factor - 1) / 2
    return affine @ step


def _nifti(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header["cal_max"] = 255
    return bytes(image.to_bytes())


def _gzip(content: bytes) -> bytes:
    """Compressed by run lengths and Huffman codes alone: as small for noisy images as with matches, in a third of the time."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()
