"""Style and rendering of the pages' charts as SVG data URIs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cmb_models.report.pictures import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

BLUE, RED, GREY, DARK = "#2563a8", "#c2452d", "#8b929b", "#1f2933"
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": DARK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": "#55606b",
    "ytick.color": "#55606b",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "cmb-models",  # makes output reproducible
}


def chart(draw: Callable[[Sequence[Axes]], None], columns: int, height: float, width: float = 9.6) -> str:
    """A row of axes drawn by `draw`, as an SVG data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots(1, columns, squeeze=False)[0])
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return data_uri(stream.getvalue(), "image/svg+xml")
