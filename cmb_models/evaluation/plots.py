"""Figures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_models.evaluation.froc import STANDARD_FP, froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.files import replacing

ALSO_AT_MM = (2.0, 5.0)  # FACTS 4: the primary tolerance is shown with a stricter and a looser one


def froc_figure(scans: Sequence[ScoredScan], operating: dict[str, float], tolerance_mm: float, title: str, path: Path) -> None:
    """FROC at the primary tolerance, at 2 and 5 mm, and the operating point {fp_per_scan, sensitivity, threshold}."""
    from matplotlib.figure import Figure  # imported here: evaluation also runs where nothing is drawn

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for tolerance in (tolerance_mm, *(t for t in ALSO_AT_MM if t != tolerance_mm)):
        curve = froc(scans, tolerance)
        primary = tolerance == tolerance_mm
        x = np.append(curve.fp_per_scan, max(STANDARD_FP[-1], curve.fp_per_scan[-1]))
        y = np.append(curve.sensitivity, curve.sensitivity[-1])
        label = f"within max({tolerance:g} mm, lesion radius)"
        axes.step(
            x, y, where="post", color="C0" if primary else "0.6", lw=2 if primary else 1, label=label, zorder=3 if primary else 2
        )
        axes.lines[-1].set_linestyle({2.0: ":", 5.0: "--"}.get(tolerance, "-") if not primary else "-")
    label = f"operating point: {operating['sensitivity']:.1%} at {operating['fp_per_scan']:.2f} FP/scan"
    axes.plot(operating["fp_per_scan"], operating["sensitivity"], "o", color="C3", ms=8, label=label, zorder=4)
    axes.set_xscale("symlog", base=2, linthresh=0.125, linscale=0.6)
    axes.set_xticks([0, *STANDARD_FP], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(0, STANDARD_FP[-1]), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="sensitivity (per microbleed)")
    lesions = sum(len(s.cmbs) for s in scans)
    axes.set_title(f"{title}: {lesions} microbleeds in {len(scans)} scans", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
