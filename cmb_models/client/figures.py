"""A picture of a scan with its findings, laid out as a radiologist looks at SWI: slabs of minimum intensity, then each finding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.client.outputs import RESEARCH_USE
from cmb_models.detection import Answer, Detection
from cmb_models.files import replacing
from cmb_models.volume import Volume, index_from_world

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLAB_MM = 8.0  # the usual thickness of SWI minimum-intensity projections: veins run through it, microbleeds stay round
SLABS = 3
CROP_MM = 30.0  # width of an enlarged view: a 10 mm lesion with its surroundings
ENLARGED = 6
MARGIN_MM = 1.5  # between a lesion's rim and its ring, so that the ring hides nothing
WIDTH, HEADER, CAPTION, FOOTER, EDGE, GAP, DPI = 12.0, 0.75, 0.32, 0.4, 0.15, 0.05, 110  # inches, and pixels in one
SLAB_WIDTH = (WIDTH - 2 * EDGE - 2 * GAP) / 3
SMALL_WIDTH = ((WIDTH - 3 * EDGE) / 2 - 2 * GAP) / 3
BACKGROUND, INK, FAINT, RING = "#0d0d0d", "#f2f2f2", "#9a9a9a", "#ffb000"


def scan_figure(volume: Volume, answer: Answer, path: Path, title: str, threshold: float | None = None) -> None:
    """Write a PNG of one scan: three axial slabs with every finding in them ringed, then the best findings enlarged.

    volume: the scan in any orientation; shown along its axes nearest to RAS, in radiological convention. threshold: on the
    score; None is the release's own. Without findings the slabs alone, and a line that says so. Written atomically.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    threshold = answer.threshold if threshold is None else threshold
    found = answer.at(threshold)
    view = _View(volume.to_ras())
    rows = -(-len(found[:ENLARGED]) // 2)
    slab_height = SLAB_WIDTH * min(1.4, view.height_over_width())
    figure = Figure(figsize=(WIDTH, HEADER + slab_height + rows * (CAPTION + SMALL_WIDTH) + FOOTER), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for n, first in enumerate(view.slabs(found)):
        axes = _panel(figure, EDGE + n * (SLAB_WIDTH + GAP), HEADER, SLAB_WIDTH, slab_height)
        _draw_slab(axes, view, first, found)
    for n, detection in enumerate(found[:ENLARGED]):
        top = HEADER + slab_height + (n // 2) * (CAPTION + SMALL_WIDTH) + CAPTION
        left = EDGE + (n % 2) * (WIDTH - EDGE) / 2
        axes = [_panel(figure, left + m * (SMALL_WIDTH + GAP), top, SMALL_WIDTH, SMALL_WIDTH) for m in range(3)]
        _draw_enlarged(axes, view, detection, n + 1)
    _write_texts(figure, title, _summary(answer, len(found), threshold))
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor=BACKGROUND)


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the figure's top left."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high), facecolor="black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


class _View:
    """A scan in RAS order with what all its pictures share: spacing, grey window, and the box around the head."""

    def __init__(self, ras: Volume) -> None:
        self.data, self.affine = ras.data, ras.affine
        self.spacing_mm = np.asarray(ras.spacing_mm)
        head = self.data > 0.15 * np.percentile(self.data, 99)
        tissue = self.data[head] if head.any() else self.data
        # Vessels in SWI go down to black and a few pixels of fat are very bright: the window ends at neither.
        self.window = (0.0 if self.data.min() >= 0 else float(np.percentile(self.data, 1)), float(np.percentile(tissue, 99.5)))
        self.box = [_extent(head.mean(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]

    def voxel(self, detection: Detection) -> np.ndarray:
        """A detection's centre as a voxel index (3,) of this view, with fractions."""
        return index_from_world(np.array([detection.world_mm]), self.affine)[0]

    def limits_mm(self, axis: int) -> np.ndarray:
        """Where the head begins and ends along an axis, with a margin, in mm from voxel 0."""
        return np.asarray(self.box[axis]) * self.spacing_mm[axis] + (-4.0, 4.0)

    def height_over_width(self) -> float:
        """Shape of an axial picture."""
        return float(np.ptp(self.limits_mm(1)) / np.ptp(self.limits_mm(0)))

    def slab_slices(self) -> int:
        return max(1, min(self.data.shape[2], round(SLAB_MM / self.spacing_mm[2])))

    def slabs(self, found: tuple[Detection, ...]) -> list[int]:
        """First slices of the slabs to show, from low to high: where most findings lie, the rest spread over the head."""
        slices = self.slab_slices()
        low, high = self.box[2]
        left = [self.voxel(d)[2] for d in found]
        centres: list[float] = []
        while left and len(centres) < SLABS:
            best = max(left, key=lambda c: sum(abs(c - other) < slices / 2 for other in left))
            centres.append(best)
            left = [c for c in left if abs(c - best) >= slices / 2]
        spread = [low + (high - low) * part for part in (0.5, 0.35, 0.65, 0.8, 0.2)]
        while len(centres) < SLABS:
            centres.append(max(spread, key=lambda c: min((abs(c - other) for other in centres), default=0.0)))
        return sorted(int(np.clip(np.ceil(c - slices / 2), 0, self.data.shape[2] - slices)) for c in centres)


def _extent(profile: np.ndarray) -> tuple[int, int]:
    """First and last index at which more than 2 % of a slice is head; the whole axis if none is."""
    there = np.flatnonzero(profile > 0.02)
    return (int(there[0]), int(there[-1])) if len(there) else (0, len(profile) - 1)


def _draw_slab(axes: Axes, view: _View, first: int, found: tuple[Detection, ...]) -> None:
    """The minimum over a slab from slice `first` upwards, with the findings whose centres lie in it."""
    end = first + view.slab_slices()
    _image(axes, view.data[:, :, first:end].min(axis=2), view.spacing_mm[:2], view.window)
    axes.set_xlim(*view.limits_mm(0)[::-1])
    axes.set_ylim(*view.limits_mm(1))
    for number, detection in enumerate(found, start=1):
        at = view.voxel(detection)
        if first - 0.5 <= at[2] < end - 0.5:
            _ring(axes, at[:2] * view.spacing_mm[:2], max(4.0, detection.diameter_mm / 2 + MARGIN_MM), str(number))
    middle = [(view.data.shape[0] - 1) / 2, (view.data.shape[1] - 1) / 2, (first + end - 1) / 2, 1]
    height_mm, thickness_mm = (view.affine @ middle)[2], (end - first) * view.spacing_mm[2]
    axes.set_title(f"z = {height_mm:.0f} mm   minimum over {thickness_mm:.0f} mm", color=FAINT, fontsize=9, pad=4)
    _sides(axes, "R", "L")


def _draw_enlarged(panels: list[Axes], view: _View, detection: Detection, number: int) -> None:
    """Axial, coronal and sagittal views through one finding, ringed."""
    centre = view.voxel(detection)
    nearest = np.clip(np.rint(centre).astype(int), 0, np.asarray(view.data.shape) - 1)
    for axes, normal, sides in zip(panels, (2, 1, 0), ("RL", "RL", "AP"), strict=True):
        across, up = (a for a in range(3) if a != normal)
        picture = np.take(view.data, nearest[normal], axis=normal)
        spacing = view.spacing_mm[[across, up]]
        at = centre[[across, up]] * spacing
        _image(axes, picture, spacing, view.window)
        axes.set_xlim(at[0] + CROP_MM / 2, at[0] - CROP_MM / 2)
        axes.set_ylim(at[1] - CROP_MM / 2, at[1] + CROP_MM / 2)
        _ring(axes, at, detection.diameter_mm / 2 + MARGIN_MM, "")
        _sides(axes, *sides)
    x, y, z = detection.world_mm
    head = f"{number}   score {detection.score:.3f}   {detection.diameter_mm:.1f} mm"
    panels[0].set_title(head, color=RING, fontsize=10, loc="left", pad=4)
    panels[2].set_title(f"({x:.1f}, {y:.1f}, {z:.1f}) mm", color=FAINT, fontsize=9, loc="right", pad=4)


def _image(axes: Axes, picture: np.ndarray, spacing_mm: np.ndarray, window: tuple[float, float]) -> None:
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


def _ring(axes: Axes, at_mm: np.ndarray, radius_mm: float, label: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(tuple(at_mm), radius_mm, fill=False, edgecolor=RING, linewidth=1.1))
    # The horizontal axis runs to the patient's right on the picture's left.
    _letter(axes, at_mm[0] - radius_mm, at_mm[1] + radius_mm, label, color=RING, ha="left")


def _sides(axes: Axes, left: str, right: str) -> None:
    _letter(axes, 0.02, 0.5, left, color=INK, ha="left", transform=axes.transAxes)
    _letter(axes, 0.98, 0.5, right, color=INK, ha="right", transform=axes.transAxes)


def _letter(axes: Axes, x: float, y: float, text: str, **style) -> None:
    """Small text with a dark rim, since it may lie on bright tissue; nothing of it outside the axes."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground=BACKGROUND)]
    axes.text(x, y, text, fontsize=9, va="center", path_effects=rim, clip_on=True, **style)


def _summary(answer: Answer, count: int, threshold: float) -> str:
    findings = {0: "no findings", 1: "1 finding"}.get(count, f"{count} findings")
    enlarged = f", best {ENLARGED} enlarged" if count > ENLARGED else ""
    by = f"release {answer.release}" if answer.release else "unregistered bundle"
    return f"{findings} at threshold {threshold:.3f}{enlarged}   |   {by}"


def _write_texts(figure: Figure, title: str, summary: str) -> None:
    height = figure.get_figheight()
    left, right = EDGE / WIDTH, 1 - EDGE / WIDTH
    figure.text(left, 1 - 0.1 / height, title, color=INK, fontsize=14, va="top", parse_math=False)
    figure.text(right, 1 - 0.14 / height, summary, color=INK, fontsize=11, va="top", ha="right")
    note = f"patient's right on the left   |   enlarged: axial, coronal, sagittal, {CROP_MM:g} mm wide   |   {RESEARCH_USE}"
    figure.text(left, 0.12 / height, note, color=FAINT, fontsize=8.5, va="bottom")
