"""A picture of a scan with its findings, laid out as radiologists read SWI: slabs of minimum intensity, then each finding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cmb_models.figures.views import (
    BACKGROUND,
    CROP_MM,
    FAINT,
    INK,
    MARGIN_MM,
    RING,
    View,
    bare,
    draw_image,
    draw_planes,
    draw_ring,
    draw_sides,
)
from cmb_models.files import atomic_write
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLAB_MM = 8.0  # the usual thickness of SWI minimum-intensity projections: veins run through it, microbleeds stay round
SLABS = 3
ENLARGED = 6
WIDTH, HEADER, CAPTION, FOOTER, EDGE, GAP, DPI = 12.0, 0.75, 0.32, 0.4, 0.15, 0.05, 110  # inches, and pixels in one
SLAB_WIDTH = (WIDTH - 2 * EDGE - 2 * GAP) / 3
SMALL_WIDTH = ((WIDTH - 3 * EDGE) / 2 - 2 * GAP) / 3


class Finding(Protocol):
    """A finding to show: centre in scanner RAS mm, diameter in mm, score in [0, 1]."""

    @property
    def position_mm(self) -> tuple[float, float, float]: ...

    @property
    def diameter_mm(self) -> float: ...

    @property
    def score(self) -> float: ...


def findings_figure(volume: Volume, findings: Sequence[Finding], title: str, summary: str, note: str) -> Figure:
    """Three axial slabs of a scan with every finding in them ringed, then the best findings enlarged.

    Args:
        volume: The scan in any orientation; shown along its axes nearest to RAS, in radiological convention.
        findings: Best first. Without any, the slabs alone are drawn.
        title: Text at the top left.
        summary: Text at the top right.
        note: Last words of the line at the bottom.

    Returns:
        A figure outside of pyplot, with a canvas that writes PNG files.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = tuple(findings)
    view = View(volume.to_ras())
    rows = -(-len(found[:ENLARGED]) // 2)
    slab_height = SLAB_WIDTH * min(1.4, view.height_over_width())
    height = HEADER + slab_height + rows * (CAPTION + SMALL_WIDTH) + FOOTER
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for n, first in enumerate(slabs(view, found)):
        axes = _panel(figure, EDGE + n * (SLAB_WIDTH + GAP), HEADER, SLAB_WIDTH, slab_height)
        _draw_slab(axes, view, first, found)
    for n, finding in enumerate(found[:ENLARGED]):
        top = HEADER + slab_height + (n // 2) * (CAPTION + SMALL_WIDTH) + CAPTION
        left = EDGE + (n % 2) * (WIDTH - EDGE) / 2
        planes = [_panel(figure, left + m * (SMALL_WIDTH + GAP), top, SMALL_WIDTH, SMALL_WIDTH) for m in range(3)]
        _draw_enlarged(planes, view, finding, n + 1)
    enlarged = f"best {ENLARGED} enlarged" if len(found) > ENLARGED else "enlarged"
    _write_texts(figure, title, summary, f"{enlarged}: axial, coronal, sagittal, {CROP_MM:g} mm wide   |   {note}")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    with atomic_write(Path(path)) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor=BACKGROUND, format="png")


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the figure's top left."""
    wide, high = figure.get_size_inches()
    return bare(figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high)))


def slab_slices(view: View) -> int:
    """Slices of a slab of SLAB_MM; at least one, at most all."""
    return max(1, min(view.data.shape[2], round(SLAB_MM / view.spacing_mm[2])))


def slabs(view: View, found: Sequence[Finding]) -> list[int]:
    """First slices of the slabs to show, from low to high: where most findings lie, the rest spread over the head."""
    slices = slab_slices(view)
    low, high = view.box[2]
    left = [view.voxel(d.position_mm)[2] for d in found]
    centres: list[float] = []
    while left and len(centres) < SLABS:
        best = max(left, key=lambda c: sum(abs(c - other) < slices / 2 for other in left))
        centres.append(best)
        left = [c for c in left if abs(c - best) >= slices / 2]
    spread = [low + (high - low) * part for part in (0.5, 0.35, 0.65, 0.8, 0.2)]
    while len(centres) < SLABS:
        centres.append(max(spread, key=lambda c: min((abs(c - other) for other in centres), default=0.0)))
    return sorted(int(np.clip(np.ceil(c - slices / 2), 0, view.data.shape[2] - slices)) for c in centres)


def _draw_slab(axes: Axes, view: View, first: int, found: Sequence[Finding]) -> None:
    """The minimum over a slab from slice `first` upwards, with the findings whose centres lie in it."""
    end = first + slab_slices(view)
    draw_image(axes, view.data[:, :, first:end].min(axis=2), view.spacing_mm[:2], view.window)
    axes.set_xlim(*view.limits_mm(0)[::-1])
    axes.set_ylim(*view.limits_mm(1))
    for number, finding in enumerate(found, start=1):
        at = view.voxel(finding.position_mm)
        if first - 0.5 <= at[2] < end - 0.5:
            draw_ring(axes, at[:2] * view.spacing_mm[:2], max(4.0, finding.diameter_mm / 2 + MARGIN_MM), str(number))
    middle = [(view.data.shape[0] - 1) / 2, (view.data.shape[1] - 1) / 2, (first + end - 1) / 2, 1]
    height_mm, thickness_mm = (view.affine @ middle)[2], (end - first) * view.spacing_mm[2]
    axes.set_title(f"z = {height_mm:.0f} mm   {thickness_mm:.0f} mm minIP", color=FAINT, fontsize=9, pad=4)
    draw_sides(axes, "R", "L")


def _draw_enlarged(panels: list[Axes], view: View, finding: Finding, number: int) -> None:
    """Axial, coronal and sagittal views through one finding, ringed, with its score, size and place."""
    draw_planes(panels, view, finding.position_mm, finding.diameter_mm)
    x, y, z = finding.position_mm
    head = f"{number}   score {finding.score:.3f}   {finding.diameter_mm:.1f} mm"
    panels[0].set_title(head, color=RING, fontsize=10, loc="left", pad=4)
    panels[2].set_title(f"({x:.1f}, {y:.1f}, {z:.1f}) mm", color=FAINT, fontsize=9, loc="right", pad=4)


def _write_texts(figure: Figure, title: str, summary: str, note: str) -> None:
    height = figure.get_figheight()
    left, right = EDGE / WIDTH, 1 - EDGE / WIDTH
    figure.text(left, 1 - 0.1 / height, title, color=INK, fontsize=14, va="top", parse_math=False)
    figure.text(right, 1 - 0.14 / height, summary, color=INK, fontsize=11, va="top", ha="right")
    figure.text(
        left,
        0.12 / height,
        f"radiological convention (patient's right on the left)   |   {note}",
        color=FAINT,
        fontsize=8.5,
        va="bottom",
    )
