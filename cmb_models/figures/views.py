"""SWI in radiological convention: upright, the patient's right on the left, in grey, positions of interest circled.

Drawn on matplotlib axes that the caller lays out, for pictures of findings and for reports alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.volume import Volume, index_from_world

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CROP_MM = 30.0  # width of an enlarged view: a 10 mm lesion with its surroundings
MARGIN_MM = 1.5  # between a lesion's rim and its ring, so that the ring hides nothing
BACKGROUND, INK, FAINT, RING = "#0d0d0d", "#f2f2f2", "#9a9a9a", "#ffb000"
PLANES = ((2, "RL"), (1, "RL"), (0, "AP"))  # axial, coronal, sagittal: the axis across each, and what its sides are


class View:
    """A scan in RAS order with the spacing, grey window and bounding box of the head that all its pictures share."""

    def __init__(self, ras: Volume) -> None:
        self.data, self.affine = ras.data, ras.affine
        self.spacing_mm = np.asarray(ras.spacing_mm)
        head = self.data > 0.15 * np.percentile(self.data, 99)
        tissue = self.data[head] if head.any() else self.data
        # Vessels in SWI go down to black and a few pixels of fat are very bright: the window ends at neither.
        self.window = (0.0 if self.data.min() >= 0 else float(np.percentile(self.data, 1)), float(np.percentile(tissue, 99.5)))
        self.box = [_extent(head.mean(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]

    def voxel(self, world_mm: Sequence[float]) -> np.ndarray:
        """The fractional voxel index (3,) of this view for a position in scanner RAS mm."""
        return index_from_world(np.array([world_mm]), self.affine)[0]

    def limits_mm(self, axis: int) -> np.ndarray:
        """Where the head begins and ends along an axis, with a margin, in mm from voxel 0."""
        return np.asarray(self.box[axis]) * self.spacing_mm[axis] + (-4.0, 4.0)

    def height_over_width(self) -> float:
        """Shape of an axial picture."""
        return float(np.ptp(self.limits_mm(1)) / np.ptp(self.limits_mm(0)))


def _extent(profile: np.ndarray) -> tuple[int, int]:
    """First and last index at which more than 2 % of a slice is head; the whole axis if none is."""
    there = np.flatnonzero(profile > 0.02)
    return (int(there[0]), int(there[-1])) if len(there) else (0, len(profile) - 1)


def bare(axes: Axes) -> Axes:
    """Remove ticks, frame and background from axes; return them."""
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def draw_planes(
    panels: Sequence[Axes], view: View, world_mm: Sequence[float], diameter_mm: float, crop_mm: float | None = CROP_MM
) -> None:
    """Axial, coronal and sagittal slices through a place on three axes, ringed.

    world_mm: RAS; outside of the scan, its nearest slices are shown. crop_mm: width shown around the place; None, the whole head.
    """
    centre = view.voxel(world_mm)
    nearest = np.clip(np.rint(centre).astype(int), 0, np.asarray(view.data.shape) - 1)
    for axes, (normal, sides) in zip(panels, PLANES, strict=True):
        across, up = (a for a in range(3) if a != normal)
        spacing = view.spacing_mm[[across, up]]
        at = centre[[across, up]] * spacing
        draw_image(axes, np.take(view.data, nearest[normal], axis=normal), spacing, view.window)
        around = at[:, None] + np.array([-0.5, 0.5]) * (crop_mm or 0.0)
        wide, high = around if crop_mm is not None else (view.limits_mm(across), view.limits_mm(up))
        axes.set_xlim(*wide[::-1])
        axes.set_ylim(*high)
        draw_ring(axes, at, diameter_mm / 2 + MARGIN_MM, "")
        draw_sides(axes, *sides)


def draw_image(axes: Axes, picture: np.ndarray, spacing_mm: np.ndarray, window: tuple[float, float]) -> None:
    """A slice (across, up) on axes in mm, voxel 0 centred on 0."""
    wide, high = np.asarray(picture.shape) * spacing_mm
    left, bottom = -spacing_mm / 2
    extent = (left, left + wide, bottom, bottom + high)
    axes.imshow(
        picture.T,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=extent,
        interpolation="bicubic",
        aspect="equal",
    )


def draw_ring(axes: Axes, at_mm: np.ndarray, radius_mm: float, label: str) -> None:
    """A circle around a place, in mm on the axes, with a label next to it."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle(tuple(at_mm), radius_mm, fill=False, edgecolor=RING, linewidth=1.1))
    # The horizontal axis runs to the patient's right on the picture's left.
    _letter(axes, at_mm[0] - radius_mm, at_mm[1] + radius_mm, label, color=RING, ha="left")


def draw_sides(axes: Axes, left: str, right: str) -> None:
    """Letters for what lies on the left and the right of a picture."""
    _letter(axes, 0.02, 0.5, left, color=INK, ha="left", transform=axes.transAxes)
    _letter(axes, 0.98, 0.5, right, color=INK, ha="right", transform=axes.transAxes)


def _letter(axes: Axes, x: float, y: float, text: str, **style) -> None:
    """Small text with a dark rim, since it may lie on bright tissue; nothing of it outside the axes."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground=BACKGROUND)]
    axes.text(x, y, text, fontsize=9, va="center", path_effects=rim, clip_on=True, **style)
