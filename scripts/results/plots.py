"""Plots of measured figures and a diagram, each as a light and a dark SVG: docs/pictures/NAME-light.svg and NAME-dark.svg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cmb_models.files import atomic_write
from scripts.results.blocks import METHODS, load

SCHEMES = {
    "light": ("#1f2328", ["#0b62c4", "#b3541e", "#2f7d32", "#7b3fa0"]),
    "dark": ("#e6e6e6", ["#6cb2ff", "#ffa566", "#7fd18b", "#cf9bf0"]),
}
FP_TICKS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]


def froc(axes: Axes) -> None:
    """FROC of the full demo, out of fold and held out, with 95 % bands over subjects and both operating points."""
    figures = load("docs/results/full-demo.json")
    for color, (key, label) in enumerate({"out_of_fold": "out of fold", "held_out": "held-out scans"}.items()):
        part = figures[key]
        x = [row["fp_per_scan"] for row in part["curve"]]
        low, high, y = ([row[k] for row in part["curve"]] for k in ("low", "high", "sensitivity"))
        axes.fill_between(x, low, high, step="post", alpha=0.18, lw=0, color=f"C{color}")
        label = f"{label} ({part['n_lesions']} microbleeds, {part['n_scans']} scans)"
        axes.step(x, y, where="post", color=f"C{color}", lw=2, label=label)
        axes.plot(part["fp_per_scan"], part["sensitivity"], "o", color=f"C{color}", ms=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(FP_TICKS, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(1 / 16, 8), ylim=(0, 1), xlabel="false positives per scan", ylabel="sensitivity")
    axes.legend(loc="lower right", frameon=False)


def learning_curve(axes: Axes) -> None:
    """Sensitivity at one FP/scan against the number of training scans."""
    accuracy = load("research/results/accuracy.json")
    for color, name in enumerate(("two-stage (ours)", "two-stage, nothing inserted", "U-Net segmentation", "radial symmetry")):
        rows = sorted((row for row in accuracy["means"] if row["name"] == name), key=lambda row: row["scans"])
        x, y = ([row[key] for row in rows] for key in ("scans", "mean"))
        axes.plot(x, y, "o-", color=f"C{color}", lw=2, label=METHODS[name])
        if not color:
            low, high = zip(*(row["interval_95"] for row in rows), strict=True)
            axes.fill_between(x, low, high, alpha=0.15, lw=0, color="C0")
    axes.set(ylim=(0, 1), xlabel="training scans", ylabel="sensitivity at 1 FP/scan", xticks=accuracy["sizes"])
    axes.legend(loc="lower right", frameon=False)


def speed(axes: Axes) -> None:
    """Seconds per scan of both sizes, in process and through gRPC."""
    measured = load("benchmarks/results/serving.json")
    ways = ("in process", "gRPC", "gRPC, shared memory")
    for color, (key, label) in enumerate({"small": "197×233×94", "large": "512×448×80"}.items()):
        places = [row + 0.2 - 0.4 * color for row in range(len(ways))]
        bars = axes.barh(places, [measured[key][way] for way in ways], height=0.36, color=f"C{color}", label=f"{label} voxels")
        axes.bar_label(bars, fmt="%.2g s", padding=4)
    axes.set_yticks(range(len(ways)), ways)
    axes.set(xlabel="median seconds per scan, two CPU cores", xlim=(0, 1.2 * max(measured["large"][way] for way in ways)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # above: bars of any length may lie below


def method(axes: Axes) -> None:
    """The way of a scan through both networks, as boxes with arrows."""
    ink = mpl.rcParams["text.color"]
    for n, text in enumerate(METHOD):
        x, y = _place(n)
        color, width = ("C0", 2) if "3D" in text else (ink, 1)
        axes.add_patch(FancyBboxPatch((x - 0.42, y - 0.24), 0.84, 0.48, "round,pad=0.02", fill=False, ec=color, lw=width))
        axes.text(x, y, text, ha="center", va="center", fontsize=10)
        if n:
            (u, v), step = _place(n - 1), 1 if _place(n)[0] > _place(n - 1)[0] else -1
            start, end = ((u + 0.45 * step, v), (x - 0.45 * step, y)) if v == y else ((u, v - 0.27), (x, y + 0.27))
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": ink, "shrinkA": 0, "shrinkB": 0})
    axes.set(xlim=(-0.5, 4.9), ylim=(-1.25, 0.35))
    axes.set_axis_off()


# In the order of processing, five to a line: the first line runs to the right, the second to the left.
METHOD = (
    "SWI", "checks", "resampling,\nnormalisation", "candidate\nnetwork\n(3D U-Net)", "candidates",
    "patches", "classifier\n(3D CNN)", "fusion of\nboth scores", "calibration,\nthreshold", "detections",
)  # fmt: skip


def _place(n: int) -> tuple[float, float]:
    """Where the n-th box of METHOD stands."""
    line, column = divmod(n, 5)
    return 1.1 * (4 - column if line % 2 else column), -0.9 * line


PLOTS: dict[str, Callable[[Axes], None]] = {"froc": froc, "learning-curve": learning_curve, "speed": speed, "method": method}


def draw_all(folder: Path) -> list[Path]:
    """Write every plot in both colour schemes into `folder`; return the paths. The same figures give the same bytes."""
    paths = []
    for name, draw in PLOTS.items():
        for scheme, (text, colors) in SCHEMES.items():
            style = {
                "text.color": text, "axes.labelcolor": text, "xtick.color": text, "ytick.color": text, "axes.edgecolor": text,
                "axes.prop_cycle": mpl.cycler(color=colors), "axes.spines.top": False, "axes.spines.right": False,
                "axes.grid": True, "grid.alpha": 0.25, "font.size": 11, "svg.hashsalt": name, "svg.fonttype": "path",
            }  # fmt: skip
            with mpl.rc_context(style):
                figure = Figure(figsize=(7, 2.2 if draw is method else 4.2), layout="constrained")
                draw(figure.add_subplot())
                path = folder / f"{name}-{scheme}.svg"
                with atomic_write(path) as temporary:
                    figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None})
                paths.append(path)
    return paths
