"""Figures of an evaluation, as PNG files and on axes of a larger figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_models.evaluation.froc import ALSO_AT_MM, STANDARD_FP, froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import froc_table
from cmb_models.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_FP = (0.0, *np.geomspace(1 / 16, STANDARD_FP[-1], 43).tolist())  # where the band is computed: close enough for a smooth edge


def froc_figure(
    scans: Sequence[ScoredScan],
    operating: Mapping[str, Any],
    tolerance_mm: float,
    title: str,
    path: Path,
    draws: np.ndarray | None = None,
) -> None:
    """Write `make_froc_figure` as a PNG."""
    figure = make_froc_figure(scans, operating, tolerance_mm, title, draws)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def make_froc_figure(
    scans: Sequence[ScoredScan], operating: Mapping[str, Any], tolerance_mm: float, title: str, draws: np.ndarray | None = None
) -> Figure:
    """`draw_froc` as a figure with a title that counts lesions and scans."""
    from matplotlib.figure import Figure  # imported here: evaluation also runs where nothing is drawn

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    draw_froc(axes, scans, operating, tolerance_mm, draws)
    lesions = sum(len(s.cmbs) for s in scans)
    counted = f"{lesions} microbleed{'s' * (lesions != 1)} in {len(scans)} scan{'s' * (len(scans) != 1)}"
    axes.set_title(f"{title}: {counted}", loc="left")
    return figure


def draw_froc(
    axes: Axes, scans: Sequence[ScoredScan], operating: Mapping[str, Any], tolerance_mm: float, draws: np.ndarray | None = None
) -> None:
    """FROC at the primary tolerance, at 2 and 5 mm, and the operating point {fp_per_scan, sensitivity, threshold}.

    draws: (B, S), bootstrap.subject_draws, for a 95 % band over subjects around the primary curve; no band without.
    """
    if draws is not None:
        band = froc_table(scans, tolerance_mm, draws, BAND_FP)
        low, high = [row["low"] for row in band], [row["high"] for row in band]
        label = "95 % CI over subjects"
        axes.fill_between(BAND_FP, low, high, color="C0", alpha=0.18, lw=0, step="post", label=label, zorder=1)
    for tolerance in (tolerance_mm, *(t for t in ALSO_AT_MM if t != tolerance_mm)):
        curve = froc(scans, tolerance)
        primary = tolerance == tolerance_mm
        x = np.append(curve.fp_per_scan, max(STANDARD_FP[-1], curve.fp_per_scan[-1]))
        y = np.append(curve.sensitivity, curve.sensitivity[-1])
        style: dict[str, Any] = {"color": "C0", "lw": 2, "zorder": 3} if primary else {"color": "0.55", "lw": 1, "zorder": 2}
        dashes = "-" if primary else {2.0: ":", 5.0: "--"}[tolerance]
        axes.step(x, y, where="post", ls=dashes, label=f"within max({tolerance:g} mm, lesion radius)", **style)
    label = f"operating point: {100 * operating['sensitivity']:.0f} % at {operating['fp_per_scan']:.2f} FP/scan"
    axes.plot(operating["fp_per_scan"], operating["sensitivity"], "o", color="C3", ms=8, label=label, zorder=4)
    axes.set_xscale("symlog", base=2, linthresh=0.125, linscale=0.6)
    axes.set_xticks([0, *STANDARD_FP], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(0, STANDARD_FP[-1]), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="sensitivity (per microbleed)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
