"""The report's charts as SVG data URIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_models.evaluation.matching import judged
from cmb_models.evaluation.metrics import counts_of
from cmb_models.evaluation.plots import draw_froc
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.evaluation.statistics.calibration import reliability
from cmb_models.report.canvas import BLUE, GREY, RED, chart
from cmb_models.report.data import Evaluation, ReportData
from cmb_models.report.wording import number
from cmb_models.training.tuning.study import LOG_SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def per_evaluation(draw: Callable[[Axes, Evaluation], None], evaluations: Sequence[Evaluation], height: float = 3.5) -> str:
    """One panel per evaluation, titled with its name and size."""

    def draw_all(panels: Sequence[Axes]) -> None:
        for axes, evaluation in zip(panels, evaluations, strict=True):
            draw(axes, evaluation)
            m = evaluation.metrics
            axes.set_title(f"{evaluation.title.capitalize()}: {m['n_lesions']} microbleeds, {m['n_scans']} scans")

    return chart(draw_all, len(evaluations), height)


def froc_chart(material: ReportData) -> str:
    def draw(axes: Axes, e: Evaluation) -> None:
        draw_froc(axes, e.scans, e.metrics, material.settings.tolerance_mm, e.draws)

    return per_evaluation(draw, material.evaluations, 4.0)


def calibration_chart(material: ReportData) -> str:
    """Share of hits against score in bins of equal count, with Wilson intervals."""

    def draw(axes: Axes, e: Evaluation) -> None:
        groups = [judged(s, material.settings.tolerance_mm) for s in e.scans]
        scores, hit = (np.concatenate(column) for column in zip(*groups, strict=True))
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfect calibration")
        for mean, hits, count in reliability(scores, hit):
            low, high = wilson(hits, count)
            axes.plot([mean, mean], [low, high], color=BLUE, lw=1, alpha=0.5)
            axes.plot(mean, hits / count, "o", color=BLUE, ms=3 + np.sqrt(count) / 3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="calibrated score", ylabel="observed fraction of microbleeds")
        axes.legend(loc="upper left")

    return per_evaluation(draw, material.evaluations, 3.4)


def score_chart(material: ReportData) -> str:
    """Score distributions of hits and of all other candidates, with the threshold."""

    def draw(axes: Axes, e: Evaluation) -> None:
        rows = [r for r in e.detections if r["outcome"] != "ignored"]
        bins = np.linspace(0, 1, 26).tolist()
        for outcome, color, name in (("false_positive", GREY, "not a microbleed"), ("hit", BLUE, "microbleed")):
            scores = [r["score"] for r in rows if r["outcome"] == outcome]
            axes.hist(scores, bins, color=color, alpha=0.75, label=f"{name} ({len(scores)})", histtype="stepfilled")
        axes.axvline(e.threshold, color=RED, lw=1.5, label=f"threshold {e.threshold:.2f}")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
        axes.set(xlim=(0, 1), ylim=(0, None), xlabel="calibrated score", ylabel="candidates")
        axes.legend(loc="upper right")

    return per_evaluation(draw, material.evaluations, 3.0)


def count_chart(material: ReportData, evaluation: Evaluation) -> str:
    """Found against annotated counts per scan, and their difference against their mean (Bland-Altman)."""
    counts = counts_of(evaluation.scans, evaluation.threshold, material.settings.tolerance_mm)
    found, marked = counts[:, 0] + counts[:, 1], counts[:, 2]

    def draw(panels: Sequence[Axes]) -> None:
        most = max(1, int(found.max()), int(marked.max()))
        panels[0].plot([0, most], [0, most], color=GREY, lw=1, ls="--")
        _dots(panels[0], marked, found)
        panels[0].set(xlabel="annotated per scan", ylabel="detected per scan", xlim=(-0.5, most + 0.7), ylim=(-0.5, most + 0.7))
        panels[0].set_title(f"{evaluation.title.capitalize()}: counts")
        _dots(panels[1], (found + marked) / 2, found - marked)
        agreement = evaluation.metrics["counts"]
        for name, label, dashes in (
            ("bias", "bias", "-"),
            ("lower_limit", "lower 95 % limit", ":"),
            ("upper_limit", "upper 95 % limit", ":"),
        ):
            if agreement[name] is not None:
                panels[1].axhline(agreement[name], color=BLUE, lw=1.2, ls=dashes)
                at: dict[str, Any] = {
                    "xytext": (-2, 2),
                    "xycoords": ("axes fraction", "data"),
                    "textcoords": "offset points",
                    "ha": "right",
                }
                panels[1].annotate(f"{label} {number(agreement[name])}", (1, agreement[name]), fontsize=8, **at)
        panels[1].axhline(0, color=GREY, lw=1, ls="--", zorder=1)
        panels[1].set(xlabel="mean of detected and annotated", ylabel="detected − annotated")
        panels[1].set_title("Bland–Altman")

    return chart(draw, 2, 3.2)


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Dots with area proportional to the number of scans at the same position."""
    places, times = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    axes.scatter(places[:, 0], places[:, 1], s=26 * times, color=BLUE, alpha=0.75, lw=0, zorder=3)


def search_chart(search: Mapping) -> str:
    """Optuna history and slice plots: trial values in order with the best so far, and against every setting."""
    trials = [t for t in search["trials"] if t["state"] == "COMPLETE"]
    numbers, values = [t["number"] for t in trials], [t["value"] for t in trials]
    names, chosen = sorted(search["settings"]), numbers.index(search["trial"])  # constraints may exclude the best value
    stopped = [t["number"] for t in search["trials"] if t["state"] != "COMPLETE"]

    def draw(panels: Sequence[Axes]) -> None:
        panels[0].step(numbers, np.maximum.accumulate(values), where="post", color=GREY, lw=1, label="best so far")
        if stopped:
            panels[0].plot(stopped, np.full(len(stopped), min(values)), "x", color=GREY, ms=5, label="pruned")
        panels[0].set(xlabel="trial (0: params.yaml)", ylabel="mean sensitivity")
        # A linear axis has a MaxNLocator, unknown to the stubs.
        panels[0].xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        for axes, name in zip(panels[1:], names, strict=True):
            _setting_axis(axes, name, [t["params"][name] for t in trials])
        for axes, place in zip(panels, [numbers, *([t["params"][n] for t in trials] for n in names)], strict=True):
            axes.plot(place, values, "o", color=BLUE, ms=5, alpha=0.8)
            axes.plot(place[chosen], values[chosen], "o", color=RED, ms=6, label="chosen" if axes is panels[0] else None)
        panels[0].figure.legend(loc="outside upper left", ncols=3)

    return chart(draw, 1 + len(names), 2.7)


def _setting_axis(axes: Axes, name: str, values: Sequence[float]) -> None:
    """The horizontal axis of a setting, logarithmic if its search space is and the values span enough for its ticks."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(name.replace("_", " "))
    axes.tick_params(labelleft=False)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    if name in LOG_SCALE and max(values) > 3 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
