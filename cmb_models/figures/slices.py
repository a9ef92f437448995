"""Slices of a scan as grey pixels in radiological convention, for pages that lay rings and letters over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.figures.views import View

EDGE = 3  # voxels around a cut that bicubic interpolation may use


@dataclass(frozen=True)
class Picture:
    """A slice: upright, the patient's right (in a sagittal slice the front) on the left.

    Attributes:
        grey: (rows, columns) uint8, black outside the scan.
        left_mm: Position of the left edge along the horizontal axis of the view, mm from voxel 0; it decreases to the right.
        top_mm: Position of the upper edge along the vertical axis, mm from voxel 0; it decreases downwards.
        width_mm: Width in mm.
        height_mm: Height in mm.
    """

    grey: np.ndarray
    left_mm: float
    top_mm: float
    width_mm: float
    height_mm: float

    def place(self, across_mm: float, up_mm: float) -> tuple[float, float]:
        """Where a position, mm from voxel 0 along both axes, lies in the picture: mm from its left and upper edges."""
        return self.left_mm - across_mm, self.top_mm - up_mm


def cut_slice(view: View, normal: int, index: int, across_mm: np.ndarray, up_mm: np.ndarray, pixel_mm: float) -> Picture:
    """One slice of a scan, interpolated within its plane.

    Args:
        view: The scan.
        normal: Axis across the slice: 2 axial, 1 coronal, 0 sagittal.
        index: Number of the slice along it; the nearest one of the scan if there is none.
        across_mm: First and last position (2,) along the horizontal axis, mm from voxel 0.
        up_mm: The same along the vertical axis.
        pixel_mm: Size of a pixel.
    """
    nearest = int(np.clip(index, 0, view.data.shape[normal] - 1))
    spacing_mm = view.spacing_mm[[axis for axis in range(3) if axis != normal]]
    return cut_plane(np.take(view.data, nearest, axis=normal), spacing_mm, view.window, across_mm, up_mm, pixel_mm)


def cut_plane(
    plane: np.ndarray,
    spacing_mm: np.ndarray,
    window: tuple[float, float],
    across_mm: np.ndarray,
    up_mm: np.ndarray,
    pixel_mm: float,
) -> Picture:
    """A part of a plane (across, up) of finite values, in grey between both ends of the window; spacing_mm: (2,)."""
    from PIL import Image

    low, high = window
    limits = np.array([across_mm, up_mm], dtype=float)
    # In voxels from the outer edge of voxel 0, as Pillow counts.
    edges = limits / spacing_mm[:, None] + 0.5
    first, end = np.floor(edges[:, 0]).astype(int) - EDGE, np.ceil(edges[:, 1]).astype(int) + EDGE
    inside = [slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(first, end, plane.shape, strict=True)]
    voxels = np.zeros(end - first, np.uint8)
    part = np.clip((plane[inside[0], inside[1]] - low) / max(high - low, 1e-6), 0, 1)
    target = [slice(s.start - a, s.start - a + n) for s, a, n in zip(inside, first, part.shape, strict=True)]
    voxels[target[0], target[1]] = np.uint8(255 * part + 0.5)
    columns, rows = (max(1, round(float(extent))) for extent in np.ptp(limits, axis=1) / pixel_mm)
    (left, right), (bottom, top) = edges - first[:, None]
    box = (float(left), float(bottom), float(right), float(top))
    image = Image.fromarray(voxels.T).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
    return Picture(np.asarray(image)[::-1, ::-1], limits[0, 1], limits[1, 1], *np.ptp(limits, axis=1).tolist())
