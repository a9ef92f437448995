"""From points to the report: sensitivity at one false positive a scan, intervals over test subjects, differences to ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_models.config.params import Params
from cmb_models.evaluation.froc import froc, froc_draws
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.statistics.bootstrap import percentiles, subject_draws, wilson
from cmb_models.files import atomic_write
from research.accuracy.methods import NOTES, OURS
from research.accuracy.points import Point

RATE = 1.0  # false positives a scan at which methods are compared


class Resampled:
    """Every point's sensitivity at RATE, as it is and in the same resamples of the test subjects, each computed once."""

    def __init__(self, points: Sequence[Point], params: Params) -> None:
        self.points, self.tolerance_mm = list(points), params.evaluate.tolerance_mm
        subjects = [s.subject for s in points[0].scans] if points else []
        rng = np.random.default_rng(params.evaluate.seed)
        draws = subject_draws(subjects, params.evaluate.bootstrap, rng)
        self._lesions = sum(len(s.cmbs) for s in points[0].scans) if points else 0
        self._value = [froc(p.scans, self.tolerance_mm).at_fp(RATE)[0] for p in points]
        self._resamples = [froc_draws(p.scans, self.tolerance_mm, [RATE], draws)[:, 0] for p in points]

    @property
    def names(self) -> list[str]:
        """Methods, ours first, the others in order of appearance."""
        return sorted(dict.fromkeys(p.name for p in self.points), key=lambda name: name != OURS)

    @property
    def sizes(self) -> list[int]:
        return sorted({p.size for p in self.points})

    def of(self, name: str, size: int) -> dict[int, tuple[float, np.ndarray]]:
        """Value and resamples (B,) of each draw."""
        found = zip(self.points, self._value, self._resamples, strict=True)
        return {p.draw: (value, resamples) for p, value, resamples in found if (p.name, p.size) == (name, size)}

    def methods(self) -> list[dict]:
        """Each method's points, as the report lists them."""
        rows: dict[str, list[dict]] = {name: [] for name in self.names}
        for point, value, resamples in zip(self.points, self._value, self._resamples, strict=True):
            row = {
                "scans": point.size,
                "draw": point.draw,
                "sensitivity": value,
                "interval_95": self._interval(value, resamples),
                "froc": froc_table(point.scans, self.tolerance_mm),
                "seconds": point.seconds,
                "workers": point.workers,
                "steps": point.steps,
                "chosen": point.chosen,
            }
            rows[point.name].append(row)
        found = [(name, sorted(own, key=lambda r: (r["scans"], r["draw"]))) for name, own in rows.items()]
        return [{"name": name, "note": NOTES[name], "points": own} for name, own in found]

    def means(self) -> list[dict]:
        """Mean over draws for each method and size; its interval is over test subjects, with these draws as they are."""
        rows = []
        for name in self.names:
            for size in self.sizes:
                if own := self.of(name, size):
                    row = _mean(list(own.values()))
                    row["interval_95"] = self._interval(row["mean"], row.pop("resamples"))
                    rows.append({"name": name, "scans": size, **row})
        return rows

    def _interval(self, value: float, resamples: np.ndarray) -> list[float] | None:
        """With none or all found every resample says the same and would promise certainty: then Wilson's interval."""
        return percentiles(resamples) if 0 < value < 1 else wilson(value * self._lesions, self._lesions)

    def differences(self) -> list[dict]:
        """Ours less another method on the same draws and the same resampled subjects, mean over draws, for each size."""
        rows = []
        for name in self.names:
            for size in self.sizes:
                ours, other = self.of(OURS, size), self.of(name, size)
                both = sorted(set(ours) & set(other))
                if name != OURS and both:
                    pairs = [(ours[d][0] - other[d][0], ours[d][1] - other[d][1]) for d in both]
                    row = _mean(pairs)
                    row["interval_95"] = percentiles(row.pop("resamples"))
                    rows.append({"than": name, "scans": size, **row})
        return rows


def _mean(pairs: list[tuple[float, np.ndarray]]) -> dict:
    """Mean over draws, of values and of resamples (B,)."""
    values, resamples = zip(*pairs, strict=True)
    return {"draws": len(values), "mean": float(np.mean(values)), "each": list(values), "resamples": np.mean(resamples, axis=0)}


def table(resampled: Resampled) -> str:
    """Means as plain text, a row a method and a column a size."""
    found = {(r["name"], r["scans"]): r for r in resampled.means()}
    lines = [f"{'sensitivity at 1 FP/scan':30}" + "".join(f"{n:>18}" for n in resampled.sizes)]
    for name in resampled.names:
        cells = [found.get((name, size)) for size in resampled.sizes]
        lines.append(f"{name:30}" + "".join(f"{_cell(c):>18}" for c in cells))
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.2f}" + (" ({:.2f}-{:.2f})".format(*row["interval_95"]) if row["interval_95"] else "")


def picture(resampled: Resampled, title: str, path: Path) -> None:
    """Learning curves with intervals and each draw as a dot; below, how much better ours is on the same draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for n, name in enumerate(resampled.names):
        shift = 1.02 ** (n - (len(resampled.names) - 1) / 2)  # side by side, or intervals hide each other
        style = {"color": f"C{n}", "label": name, "zorder": 4 if name == OURS else 3}
        own = [r for r in resampled.means() if r["name"] == name]
        _curve(above, own, shift, lw=2.2 if name == OURS else 1.2, **style)
        for row in own:
            above.plot([row["scans"] * shift] * row["draws"], row["each"], ".", ms=4, color=style["color"], alpha=0.45)
        _curve(below, [r for r in resampled.differences() if r["than"] == name], shift, lw=1.2, **style)
    above.set(ylim=(0, 1.02), ylabel="sensitivity at 1 false positive a scan")
    above.set_title(title, loc="left", fontsize=10)
    if resampled.names:
        above.legend(loc="lower right", frameon=False, fontsize=9)
    below.axhline(0, color="0.4", lw=1)
    below.set_xscale("log")
    below.set_xticks(resampled.sizes, [str(s) for s in resampled.sizes])
    below.minorticks_off()
    below.set(xlabel="scans trained on", ylabel="ours less the other")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _curve(axes, rows: list[dict], shift: float, **style) -> None:
    """Means joined by a line with their intervals as bars; nothing for no rows."""
    if rows:
        x, y = [r["scans"] * shift for r in rows], [r["mean"] for r in rows]
        ends = np.array([r["interval_95"] or (r["mean"], r["mean"]) for r in rows]).T
        off = np.maximum(0, [y - ends[0], ends[1] - y])
        axes.errorbar(x, y, yerr=off, marker="o", ms=4, capsize=2, elinewidth=1, **style)
