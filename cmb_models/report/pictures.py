"""Pictures of cases as JPEG data URIs for the pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmb_models.figures.views import CROP_MM, View, bare, draw_planes
from cmb_models.io.nifti import read_volume
from cmb_models.report.cases import Case, measured

CROP_INCH, WIDE_INCH, GAP_INCH, DPI = 1.75, 8.6, 0.04, 110
QUALITY = 86  # of JPEG: lower values show blocks around 3 mm lesions
BUDGET = 5_500_000  # bytes of pictures: keeps the page below 8 MB


@dataclass
class Album:
    """Pictures by case as data URIs: `crops` 30 mm wide, `wide` the whole head, each in three planes. left_out: not drawn."""

    crops: dict[Case, str] = field(default_factory=dict)
    wide: dict[Case, str] = field(default_factory=dict)
    measured: dict[Case, Case] = field(default_factory=dict)
    left_out: int = 0


def draw_album(cases: Iterable[Case], wide: Iterable[Case], images: dict[str, Path], budget: int = BUDGET) -> Album:
    """Draw each case's crop, and the whole head for those in `wide`, until `budget` bytes are used; each scan is read once.

    Cases are drawn in the order given; those beyond the budget are counted in `left_out` and listed without a picture.
    """
    cases, wide, album = list(dict.fromkeys(cases)), set(wide), Album()
    drawn: dict[Case, tuple[str, str]] = {}
    for key in dict.fromkeys(c.scan for c in cases):
        view = View(read_volume(images[key]).to_ras())
        for case in (c for c in cases if c.scan == key):
            album.measured[case] = measured(case, view)
            drawn[case] = (crop(view, album.measured[case]), head(view, album.measured[case]) if case in wide else "")
    for case in cases:
        small, large = drawn[case]
        budget -= len(small) + len(large)
        if budget < 0:
            album.left_out += 1
            continue
        album.crops[case] = small
        if large:
            album.wide[case] = large
    return album


def crop(view: View, case: Case) -> str:
    """Three planes, CROP_MM wide, as a data URI."""
    sizes = [(CROP_INCH, CROP_INCH)] * 3
    return _planes(view, case, sizes, CROP_MM)


def head(view: View, case: Case) -> str:
    """Three planes of the whole head at one scale, as a data URI."""
    x, y, z = (float(np.ptp(view.limits_mm(axis))) for axis in range(3))
    inch = (WIDE_INCH - 2 * GAP_INCH) / (x + x + y)
    return _planes(view, case, [(x * inch, y * inch), (x * inch, z * inch), (y * inch, z * inch)], None)


def _planes(view: View, case: Case, sizes: list[tuple[float, float]], crop_mm: float | None) -> str:
    """Panels of these sizes in inches side by side, bottoms in a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = sum(w for w, _ in sizes) + 2 * GAP_INCH, max(h for _, h in sizes)
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    panels, left = [], 0.0
    for wide, high in sizes:
        bottom = (height - high) / 2
        panels.append(bare(figure.add_axes((left / width, bottom / height, wide / width, high / height))))
        left += wide + GAP_INCH
    # Cases are measured before they are drawn.
    assert case.diameter_mm is not None
    draw_planes(panels, view, case.world_mm, case.diameter_mm, crop_mm)
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", dpi=DPI, facecolor="black", pil_kwargs={"quality": QUALITY, "optimize": True})
    return data_uri(stream.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a URI that an HTML page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
