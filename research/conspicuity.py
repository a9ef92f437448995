"""Sensitivity by contrast-to-noise ratio (CNR) of the microbleed: of a release, on held-out phantoms.

    python -m research.conspicuity --workspace demo-full [--seed 11 --seed 13] [--fp-per-scan 0.6] [--out FILE.json]
    python -m research.conspicuity --seed 11 --seed 13 --out research/results/conspicuity_base.json    # the base release

The CNR is computed from the image alone. The held-out scans of a workspace are read from its evaluation; each --seed adds a set,
simulated as `make full-demo` simulates its held-out scans and kept in research/.cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from scipy.stats import median_abs_deviation

from cmb_models.config.params import Params, load_params
from cmb_models.dataset.index import index_datasets
from cmb_models.dataset.layout import find_scans
from cmb_models.errors import InputError
from cmb_models.evaluation.exposure_log import require_whole
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.run import score_scans
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.evaluation.statistics.strata import class_names
from cmb_models.figures.views import RING, View, bare, draw_image
from cmb_models.files import atomic_write, read_json, write_json
from cmb_models.io.nifti import read_volume
from cmb_models.machine import cores
from cmb_models.release.base import base_bundle
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import Volume, index_from_world, world_from_index
from research.exposure import EXPOSURE_LOG, log_evaluation
from research.full_run import simulate
from research.ood_simulator.evaluate import own_locked, sensitivity_at
from research.stages import ROOT
from scripts.demo import LOCKED_FULL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORE_MM = 1.5  # from the place: within it a microbleed is darkest
SHELL_MM = (4.0, 9.0)  # its surroundings: beyond the rim of all but the largest (95 % of marked ones measure less than 4.8 mm)
BOUNDS = (3.0, 4.5, 6.0, 8.0)  # of the classes of CNR
CLASSES = class_names(BOUNDS, "below {:g}", "{:g} to below {:g}", "{:g} and more")
RATES = (0.25, 0.5, 0.6, 1.0)  # false positives per scan
SHOWN, CROP_MM = 12, 24.0  # of each class in the picture, and its width
CACHE = ROOT / "research/.cache"


def contrast_to_noise(volume: Volume, centre_mm: np.ndarray) -> float:
    """CNR of a place: median of its surroundings minus its darkest voxel, over the standard deviation of the surroundings.

    centre_mm: (3,) scanner RAS. The darkest voxel is that within CORE_MM, or the nearest one; the surroundings are all voxels in
    SHELL_MM, whatever tissue they show; their deviation is 1.4826 times the median absolute deviation. 0 for a place without
    surroundings in the volume, or whose surroundings do not vary.
    """
    middle, reach = index_from_world(np.asarray(centre_mm, dtype=float)[None], volume.affine)[0], SHELL_MM[1]
    half = np.ceil(reach / np.asarray(volume.spacing_mm)).astype(int)
    low = np.clip(np.rint(middle).astype(int) - half, 0, volume.data.shape)
    high = np.clip(np.rint(middle).astype(int) + half + 1, 0, volume.data.shape)
    window = np.asarray(volume.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], dtype=float)
    if not window.size:
        return 0.0
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    away = np.linalg.norm(world_from_index(grid.reshape(-1, 3), volume.affine) - centre_mm, axis=1).reshape(window.shape)
    shell = window[(away > SHELL_MM[0]) & (away <= reach)]
    deviation = float(median_abs_deviation(shell, scale="normal")) if shell.size else 0.0
    core = window[away <= max(CORE_MM, away.min())]
    return float((np.median(shell) - core.min()) / deviation) if deviation else 0.0


def places(scan: ScoredScan, volume: Volume, threshold: float, tolerance_mm: float) -> tuple[list[dict], list[dict]]:
    """A scan's microbleeds, each with whether it is found, and its other candidates, each with whether it is a false positive.

    At the threshold as every figure counts them; below it a candidate is of none when with no threshold it would find none.
    """
    found, every = match(scan, threshold, tolerance_mm), match(scan, 0.0, tolerance_mm)
    above = scan.scores >= threshold
    false = np.where(above, found.false, every.false)
    lesions = [
        {"cnr": contrast_to_noise(volume, np.array(a.centre_mm)), "about": a, "found": n in found.lesion_of}
        for n, a in enumerate(scan.cmbs)
    ]
    others = [{"cnr": contrast_to_noise(volume, scan.centres_mm[n]), "found": bool(above[n])} for n in np.flatnonzero(false)]
    return lesions, others


def class_name(value: float) -> str:
    return CLASSES[int(np.searchsorted(BOUNDS, value, side="right"))]


def by_class(lesions: Sequence[dict], others: Sequence[dict], scans: int) -> list[dict]:
    """A row per class: microbleeds and how many are found, other candidates and false positives per scan."""
    rows = []
    for name in CLASSES:
        own = [x["found"] for x in lesions if class_name(x["cnr"]) == name]
        mimic = [x["found"] for x in others if class_name(x["cnr"]) == name]
        interval = wilson(sum(own), len(own)) if own else None
        row = {"cnr": name, "lesions": len(own), "found": sum(own), "interval_95": interval}
        rows.append(row | {"others_per_scan": len(mimic) / scans, "false_positives_per_scan": sum(mimic) / scans})
    return rows


def sets(
    workspace: Path | None, detector: BundleDetector, seeds: Iterable[int], tolerance_mm: float
) -> list[tuple[Path, list[ScoredScan]]]:
    """Folders of scans, each with the release's candidates: those of the workspace, then each seed's. Each evaluation is logged."""
    found = []
    if workspace:
        threshold = detector.bundle.config.decision.threshold
        own, locked = own_locked(workspace / "reports/evaluate", threshold), read_json(workspace / "data/split.json")["locked"]
        index = [s for s in read_json(workspace / "data/index.json")["scans"] if s["subject"] in locked]
        print(f"{workspace}: {log_evaluation(detector, index, own, tolerance_mm)}")
        found.append((workspace / "data/raw/locked", own))
    for seed in seeds:
        raw, name = CACHE / f"locked-{seed}", f"seed{seed}"
        simulate(raw / name, LOCKED_FULL, cores(), seed)
        index = index_datasets(raw)["scans"]
        scans = score_scans(detector, raw, index)
        print(f"seed {seed}: {log_evaluation(detector, index, scans, tolerance_mm)}")
        found.append((raw / name, scans))
    return found


def table(rows: Sequence[dict]) -> str:
    lines = [f"{'CNR':18}{'microbleeds':>12}{'found':>7}{'':10}{'other candidates':>18}{'FP/scan':>24}"]
    for r in rows:
        share = f"{r['found'] / r['lesions']:.0%}" if r["lesions"] else "-"
        cells = f"{r['cnr']:18}{r['lesions']:12}{r['found']:7}{share:>10}"
        lines.append(f"{cells}{r['others_per_scan']:18.2f}{r['false_positives_per_scan']:24.2f}")
    return "\n".join(lines)


def picture(lesions: Sequence[dict], path: Path) -> None:
    """A row per class of up to SHOWN microbleeds chosen at random, each in the middle of an axial slice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * SHOWN, 1.42 * len(CLASSES)), facecolor="white", layout="constrained")
    rng, panels = np.random.default_rng(0), figure.subplots(len(CLASSES), SHOWN)
    for row, name in zip(panels, CLASSES, strict=True):
        own = [x for x in lesions if class_name(x["cnr"]) == name]
        drawn = [own[n] for n in rng.permutation(len(own))[:SHOWN]]
        row[0].set_ylabel(name, fontsize=10)
        for axes, lesion in zip(row, [*drawn, *[None] * (SHOWN - len(drawn))], strict=True):
            _enlarged(axes, lesion)
    figure.suptitle("microbleeds by CNR; framed in orange: missed", fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _enlarged(axes: Axes, lesion: dict | None) -> None:
    bare(axes)
    if lesion is None:
        axes.set_facecolor("white")
        return
    view = View(read_volume(lesion["path"]).to_ras())
    voxel = view.voxel(lesion["about"].centre_mm)
    draw_image(axes, view.data[:, :, round(voxel[2])], view.spacing_mm[:2], view.window)
    (x, y), half = voxel[:2] * view.spacing_mm[:2], CROP_MM / 2
    axes.set(xlim=(x + half, x - half), ylim=(y - half, y + half))
    for spine in axes.spines.values():
        spine.set(visible=not lesion["found"], color=RING, linewidth=3)


def main(
    workspace: Annotated[
        Path | None, typer.Option(help="A site's workspace: its release and its held-out scans. Default: the base release.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of a further set of held-out scans; may be given several times.")] = None,
    fp_per_scan: Annotated[float | None, typer.Option(help="Read off the curve there, not at the release's threshold.")] = None,
    out: Path = ROOT / "research/results/conspicuity.json",
    params_file: Annotated[Path, typer.Option("--params")] = ROOT / "params.yaml",
) -> None:
    if not workspace and not seed:
        raise InputError("options-conflict", "research.conspicuity", "--workspace or --seed", "neither", "name the scans")
    require_whole(EXPOSURE_LOG)
    params: Params = load_params(params_file)
    detector = BundleDetector(workspace / "models/bundle" if workspace else base_bundle())
    threshold, tolerance = detector.bundle.config.decision.threshold, params.evaluate.tolerance_mm
    found = sets(workspace, detector, seed or (), tolerance)
    if fp_per_scan is not None:
        threshold = froc([s for _, scans in found for s in scans], tolerance).at_fp(fp_per_scan)[1]
    lesions, others, count = [], [], 0
    for folder, scans in found:
        files = {f.key: f.path for f in find_scans(folder)}
        for scan in scans:
            own, mimics = places(scan, read_volume(files[scan.key]), threshold, tolerance)
            own = [x | {"path": files[scan.key]} for x in own]
            lesions, others, count = lesions + own, others + mimics, count + 1
    cortex = [x for x in lesions if "cortex" in x["about"].region]
    rows = {"all": by_class(lesions, others, count), "cortex": by_class(cortex, (), count)}
    rows |= {"total": sensitivity_at([s for _, scans in found for s in scans], RATES, params)}
    about = {"manifest_sha256": detector.bundle.manifest_sha256, "scans": count, "seeds": list(seed or ())}
    about |= {"threshold": threshold, "fp_per_scan": fp_per_scan}
    write_json(out, about | rows)
    picture(lesions, out.with_suffix(".png"))
    print("\n\n".join(f"{name}\n{table(rows[name])}" for name in ("all", "cortex")))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
