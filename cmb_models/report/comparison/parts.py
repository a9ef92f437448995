"""Sentences, rows, tables and chart of the comparison page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.evaluation.froc import STANDARD_FP, froc
from cmb_models.evaluation.metrics import Metrics, froc_table, metrics_at
from cmb_models.evaluation.plots import BAND_FP
from cmb_models.evaluation.statistics.paired import Difference
from cmb_models.evaluation.statistics.strata import strata
from cmb_models.report.canvas import BLUE, chart
from cmb_models.report.wording import number, percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cmb_models.report.comparison.data import Comparison, Side

OLD = "#b9652a"  # colour of the first release; the second is BLUE
SHARES = ("sensitivity", "precision", "sensitivity_at_fp")  # in percent; more is better
REACH = {True: 0.3, False: 1.0}  # axis limit of shares and of rates, wider than most intervals of 30 scans
LESS_IS_BETTER = ("fp_per_scan", "fp_per_cmb_free_scan")


def name_of(figure: str, fp_per_scan: float) -> str:
    """The display name of a metric."""
    return {
        "sensitivity": "sensitivity",
        "fp_per_scan": "FP/scan",
        "precision": "precision",
        "fp_per_cmb_free_scan": "FP/scan in scans without microbleeds",
        "sensitivity_at_fp": f"sensitivity at {fp_per_scan:g} FP/scan",
    }[figure]


def format_value(figure: str, value: float | None, interval: Sequence[float] | None) -> str:
    """A metric with its interval as text."""
    return percent(value, interval) if figure in SHARES else number(value, interval)


def format_difference(d: Difference) -> str:
    """A signed difference with its interval, such as "−1 pp (−5 to +2)" in percentage points."""
    if d.difference is None:
        return "–"
    scale, digits, unit = (100, 0, " pp") if d.name in SHARES else (1, 2, "")
    low_high = f" ({_signed(d.interval[0] * scale, digits)} to {_signed(d.interval[1] * scale, digits)})" if d.interval else ""
    return _signed(d.difference * scale, digits) + unit + low_high


def _signed(value: float, digits: int) -> str:
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def verdict(d: Difference) -> str:
    """Whether the interval excludes 0: "better", "worse" or "" if not."""
    if d.difference is None or not d.interval or d.interval[0] <= 0 <= d.interval[1]:
        return ""
    return "better" if (d.difference > 0) != (d.name in LESS_IS_BETTER) else "worse"


def figure_rows(comparison: Comparison) -> list[dict]:
    """One row per metric: name, both sides, difference, verdict, and position in the forest plot."""
    rows = []
    for name, d in comparison.differences.items():
        sides = (format_value(name, d.first, d.first_interval), format_value(name, d.second, d.second_interval))
        row = {
            "name": name_of(name, comparison.fp_per_scan),
            "sides": sides,
            "difference": format_difference(d),
            "verdict": verdict(d),
        }
        rows.append(row | {"forest": _forest(d)})
    return rows


def _forest(d: Difference) -> dict | None:
    """Left end, width and middle of a difference's interval in percent of a cell with 0 in its middle and REACH at its ends."""
    if d.difference is None or not d.interval:
        return None
    reach = REACH[d.name in SHARES]
    low, middle, high = (float(np.clip(50 + 50 * v / reach, 0, 100)) for v in (d.interval[0], d.difference, d.interval[1]))
    return {"low": round(low, 1), "width": round(high - low, 1), "middle": round(middle, 1)}


def box(side: Side, tolerance_mm: float) -> Metrics | None:
    """The counts of one side; None without an evaluation."""
    return metrics_at(side.scans, side.threshold, tolerance_mm) if side.scans and side.threshold is not None else None


def summary(comparison: Comparison) -> str:
    """The comparison in a few sentences."""
    first, second = comparison.first.name, comparison.second.name
    a, b = (box(side, comparison.tolerance_mm) for side in comparison.sides)
    if not comparison.common or a is None or b is None:
        return f"{second.capitalize()} and {first} cannot be compared: they were not evaluated on the same held-out scans."
    lesions = sum(len(s.cmbs) for s in comparison.second.scans)
    found, false = comparison.differences["sensitivity"], comparison.differences["fp_per_scan"]
    text = f"On the same {plural(len(comparison.second.scans), 'held-out scan')} with {plural(lesions, 'microbleed')} "
    if not comparison.disagreements:
        return text + f"{second} and {first} have identical detections."
    text += f"{second} detected {b['hits']} and {first} detected {a['hits']}: sensitivity {format_difference(found)}. "
    text += f"False positives: {b['false_positives']} and {a['false_positives']}, {format_difference(false)} FP/scan."
    unsure = [n for n, d in (("sensitivity", found), ("FP/scan", false)) if d.difference and not verdict(d)]
    return text + (f" The difference in {' and '.join(unsure)} may be due to chance." if unsure else "")


def check_row(check: Mapping) -> dict:
    """A check of the gate as text."""
    shown = "–" if check["measured"] is None else f"{check['measured']:.4g}"
    if check["interval"] and "interval" not in check["name"]:
        shown += f" ({check['interval'][0]:.3g}–{check['interval'][1]:.3g})"
    need = f"{'≥' if check['bound'] == 'min' else '≤'}\u00a0{check['limit']:g}"  # no line break
    result = "not judged" if check["measured"] is None and check["passed"] else "pass" if check["passed"] else "fail"
    shown = shown.replace("-", "−") if "e-" not in shown else shown
    return {
        "name": check["name"],
        "measured": shown,
        "need": need.replace("-", "−"),
        "result": result,
        "note": re.sub(r" -(?=\d)", " −", check["note"]),
    }


def strata_tables(comparison: Comparison) -> list[dict]:
    """Both sides by size, region and dataset: heading, and rows of a name with one cell per side, None without that stratum."""
    judged = [(s.scans, s.threshold) for s in comparison.sides if s.scans and s.threshold is not None]
    if len(judged) < len(comparison.sides):
        return []
    headings = {"size": "By annotated diameter", "region": "By region", "dataset": "By dataset (site)"}
    tables = []
    both = [strata(scans, at, comparison.tolerance_mm, np.ones((1, len(scans)), dtype=int)) for scans, at in judged]
    for key, heading in headings.items():
        per_side = [{row["name"]: row for row in tables_of_side[key]} for tables_of_side in both]
        names = list(dict.fromkeys(name for rows in per_side for name in rows))
        if len(names) > 1:
            rows = [(name, [rows_of_side.get(name) for rows_of_side in per_side]) for name in names]
            tables.append({"heading": heading, "by_scan": key == "dataset", "rows": rows})
    return tables


def froc_chart(comparison: Comparison) -> str:
    """Both FROC curves with their operating points, and 95 % bands for common scans."""

    def draw(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        for side, color in zip(comparison.sides, (OLD, BLUE), strict=True):
            _curve(axes, side, color, comparison)
        axes.set_xscale("symlog", base=2, linthresh=0.125, linscale=0.6)
        axes.set_xticks([0, *STANDARD_FP], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
        labels = {"xlabel": "false positives per scan", "ylabel": "sensitivity (per microbleed)"}
        axes.set(xlim=(0, STANDARD_FP[-1]), ylim=(0, 1.02), **labels)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")

    return chart(draw, 1, 4.6, 8.2)


def _curve(axes: Axes, side: Side, color: str, comparison: Comparison) -> None:
    if comparison.common:
        band = froc_table(side.scans, comparison.tolerance_mm, comparison.draws.astype(float), BAND_FP)
        low, high = [row["low"] for row in band], [row["high"] for row in band]
        axes.fill_between(BAND_FP, low, high, color=color, alpha=0.13, lw=0, step="post", zorder=1)
    curve = froc(side.scans, comparison.tolerance_mm)
    x = np.append(curve.fp_per_scan, max(STANDARD_FP[-1], curve.fp_per_scan[-1]))
    axes.step(x, np.append(curve.sensitivity, curve.sensitivity[-1]), where="post", color=color, lw=2, label=side.name, zorder=3)
    if at := box(side, comparison.tolerance_mm):
        label = f"{side.name}, operating point: {100 * at['sensitivity']:.0f} % at {at['fp_per_scan']:.2f} FP/scan"
        axes.plot(at["fp_per_scan"], at["sensitivity"], "o", color=color, ms=8, mec="white", mew=1.2, label=label, zorder=4)
