"""Pictures of the out-of-distribution scans, and FROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.config.params import Decision
from cmb_models.dataset.layout import ScanFile
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.figures.views import MARGIN_MM, View, bare, draw_image, draw_ring
from cmb_models.files import atomic_write
from cmb_models.io.nifti import read_volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLAB_MM = 12.0
CROP_MM = 24.0
ENLARGED = 4  # lesions a scan


def scans_picture(scans: Sequence[ScanFile], path: Path) -> None:
    """A row a scan: an axial slice, the minimum over 12 mm from it upwards, a sagittal slice, four marked places enlarged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.3 * len(scans)), facecolor="white", layout="constrained")
    rows = figure.subplots(len(scans), 5, squeeze=False, width_ratios=(1, 1, 1.1, 0.6, 0.6))
    for axes, scan in zip(rows, scans, strict=True):
        view = View(read_volume(scan.path).to_ras())
        first = _axial(axes[0], view, scan)
        _slab(axes[1], view, first)
        bare(axes[2]).set_ylim(*view.limits_mm(2))
        draw_image(axes[2], view.data[view.data.shape[0] // 2 + round(6 / view.spacing_mm[0])], view.spacing_mm[1:], view.window)
        axes[0].set_ylabel("x".join(f"{s:.2g}" for s in view.spacing_mm) + " mm", fontsize=10)
        marked = sorted(scan.annotations, key=lambda a: not a.is_cmb)[:ENLARGED]
        for n, column in enumerate(axes[3:]):
            _enlarged(column, view, marked[2 * n : 2 * n + 2])
    for axes, title in zip(rows[0], ("SWI", f"minimum over {SLAB_MM:g} mm", "sagittal", "", ""), strict=True):
        axes.set_title(title, fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _axial(axes: Axes, view: View, scan: ScanFile) -> int:
    """The slice of the microbleed nearest to the middle, or the middle one, all microbleeds in it ringed; its number."""
    middle = view.data.shape[2] / 2
    cmbs = [(view.voxel(a.centre_mm), a) for a in scan.annotations if a.is_cmb]
    k = round(min((v[2] for v, _ in cmbs), key=lambda z: abs(z - middle), default=middle))
    draw_image(bare(axes), view.data[:, :, k], view.spacing_mm[:2], view.window)
    for voxel, cmb in cmbs:
        if round(voxel[2]) == k:
            draw_ring(axes, voxel[:2] * view.spacing_mm[:2], max(4.0, cmb.diameter_mm / 2 + MARGIN_MM), "")
    _frame(axes, view)
    return k


def _slab(axes: Axes, view: View, first: int) -> None:
    last = min(view.data.shape[2], first + max(1, round(SLAB_MM / view.spacing_mm[2])))
    draw_image(bare(axes), view.data[:, :, first:last].min(axis=2), view.spacing_mm[:2], view.window)
    _frame(axes, view)


def _frame(axes: Axes, view: View) -> None:
    """The head alone, the patient's right on the left."""
    axes.set_xlim(*view.limits_mm(0)[::-1])
    axes.set_ylim(*view.limits_mm(1))


def _enlarged(axes: Axes, view: View, marked: Sequence) -> None:
    """Two marked places, one above the other, axial."""
    axes.axis("off")
    for n, about in enumerate(marked):
        part = bare(axes.inset_axes((0, 0.52 - 0.52 * n, 1, 0.46)))
        voxel = view.voxel(about.centre_mm)
        k = int(np.clip(round(voxel[2]), 0, view.data.shape[2] - 1))
        draw_image(part, view.data[:, :, k], view.spacing_mm[:2], view.window)
        x, y = voxel[:2] * view.spacing_mm[:2]
        part.set_xlim(x + CROP_MM / 2, x - CROP_MM / 2)
        part.set_ylim(y - CROP_MM / 2, y + CROP_MM / 2)
        part.set_title(f"{about.label.removeprefix('mimic:')} {about.diameter_mm:.1f} mm", fontsize=8, pad=2)


def froc_picture(parts: dict[str, tuple[Sequence[ScoredScan], Decision]], tolerance_mm: float, path: Path) -> None:
    """FROC curves of several evaluations, each with the point of its release's threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for n, (name, (scans, decision)) in enumerate(parts.items()):
        curve = froc(scans, tolerance_mm)
        label = f"{name}: {curve.n_lesions} microbleeds in {curve.n_scans} scans"
        axes.step(
            np.append(curve.fp_per_scan, 99),
            np.append(curve.sensitivity, curve.sensitivity[-1]),
            f"C{n}",
            where="post",
            label=label,
        )
        at = np.flatnonzero(curve.thresholds >= decision.threshold)[-1]
        axes.plot(curve.fp_per_scan[at], curve.sensitivity[at], f"C{n}o")
    axes.set_xscale("symlog", base=2, linthresh=0.125, linscale=0.6)
    axes.set_xticks([0, 0.125, 0.25, 0.5, 1, 2, 4, 8], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(0, 8), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="sensitivity (per microbleed)")
    axes.set_title("dots: at the release's threshold", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
