"""Figures of a release on out-of-distribution scans and on its own held-out scans, by `cmb_models.evaluation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cmb_models.config.params import Decision, Params
from cmb_models.dataset.index import index_datasets
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan, reach_mm
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.rows import detection_rows, lesion_rows, read_rows
from cmb_models.evaluation.run import score_scans
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.summary import figures
from cmb_models.io.annotations import MIMIC_PREFIX, Annotation
from cmb_models.release.bundle import BundleDetector

RATES = (0.5, 1.0, 2.0, 4.0)  # false positives per scan at which sensitivity is reported
AT_THRESHOLD = ("sensitivity", "precision", "fp_per_scan", "fp_per_cmb_free_scan")
STRATA = ("voxel_size", "size", "region")


def score(bundle: BundleDetector, raw: Path, dataset: str) -> list[ScoredScan]:
    """All candidates of a release in the scans of `raw`/`dataset`, which are checked as a site's are."""
    index = [entry for entry in index_datasets(raw)["scans"] if entry["dataset"] == dataset]
    return score_scans(bundle, raw, index)


def own_locked(folder: Path, threshold: float) -> list[ScoredScan]:
    """The release's saved rows of its own held-out scans (reports/evaluate). Raises InputError when they are another release's."""
    saved = read_rows(folder)
    if saved.threshold != threshold:
        got = f"rows at {saved.threshold:.6f}"
        raise InputError(
            "rows-missing", folder, f"an evaluation at the release's threshold, {threshold:.6f}", got, "run `dvc repro`"
        )
    return list(saved.scans)


def sensitivity_at(scans: Sequence[ScoredScan], rates: Sequence[float], params: Params) -> dict:
    """Number of microbleeds, and FROC rows at rates of false positives per scan with 95 % intervals over subjects."""
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, np.random.default_rng(params.evaluate.seed))
    return {"cmbs": sum(len(s.cmbs) for s in scans), "froc": froc_table(scans, params.evaluate.tolerance_mm, draws, rates)}


def with_intervals(scans: Sequence[ScoredScan], decision: Decision, params: Params) -> dict:
    """Figures with 95 % intervals over subjects: FROC at RATES, at the threshold, by stratum, and what errors were.

    decision: the release's.
    """
    threshold, tolerance, rng = decision.threshold, params.evaluate.tolerance_mm, np.random.default_rng(params.evaluate.seed)
    all_figures, _ = figures(scans, threshold, params, rng)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, np.random.default_rng(params.evaluate.seed))
    curve = froc(scans, tolerance)
    false = [r for r in detection_rows(scans, threshold, tolerance) if r["at_threshold"] == "false_positive"]
    missed = [r for r in lesion_rows(scans, threshold, tolerance, decision) if r["hit"] == 0]
    apart = {}
    if any(_is_mimic(a) for s in scans for a in s.annotations):  # rows that were saved name none
        apart = {"froc_without_mimics": froc_table(without_mimics(scans, tolerance), tolerance, draws, RATES)}
    at = {name: all_figures[name] for name in ("n_scans", "n_lesions", "n_cmb_free_scans", "hits", "false_positives", "threshold")}
    return (
        at
        | apart
        | {
            "at_threshold": {n: {"value": all_figures[n], "interval_95": all_figures["intervals_95"][n]} for n in AT_THRESHOLD},
            "froc": froc_table(scans, tolerance, draws, RATES),
            "highest_sensitivity": float(curve.sensitivity[-1]) if curve.n_lesions else None,
            "highest_sensitivity_fp_per_scan": float(curve.fp_per_scan[-1]),
            "strata": {name: all_figures["strata"][name] for name in STRATA},
            "false_positives_at": dict(Counter(r["label"] or "nothing labelled" for r in false).most_common()),
            "missed_by": dict(Counter(r["rejected"] for r in missed).most_common()),
        }
    )


def without_mimics(scans: Sequence[ScoredScan], tolerance_mm: float) -> list[ScoredScan]:
    """The scans without candidates that lie at a marked mimic and at no microbleed: neither hits nor false positives.

    Many mimics of this simulator are as round and as dark as its microbleeds. Without them the other false positives remain.
    """
    return [_without_mimics(scan, tolerance_mm) for scan in scans]


def _is_mimic(annotation: Annotation) -> bool:
    return annotation.label.startswith(MIMIC_PREFIX)


def _without_mimics(scan: ScoredScan, tolerance_mm: float) -> ScoredScan:
    def at(places: list[Annotation]) -> np.ndarray:
        away = scan.centres_mm[:, None] - np.array([a.centre_mm for a in places]).reshape(-1, 3)
        return (np.linalg.norm(away, axis=2) <= [reach_mm(a, tolerance_mm) for a in places]).any(axis=1)

    mimics = [a for a in scan.annotations if _is_mimic(a)]
    kept = at(scan.cmbs) | ~at(mimics)
    return replace(
        scan,
        centres_mm=scan.centres_mm[kept],
        scores=scan.scores[kept],
        stage1=None if scan.stage1 is None else scan.stage1[kept],
        stage2=None if scan.stage2 is None else scan.stage2[kept],
    )


def table(parts: dict[str, dict]) -> str:
    """Figures of several evaluations as plain text, a row each."""
    lines = [
        f"{'':34}{'scans':>6}{'CMBs':>6}" + "".join(f"{f'at {rate:g} FP':>18}" for rate in RATES) + f"{'at the threshold':>32}"
    ]
    for name, part in parts.items():
        cells = [_cell(row["sensitivity"], (row["low"], row["high"])) for row in part["froc"]]
        found, false = part["at_threshold"]["sensitivity"], part["at_threshold"]["fp_per_scan"]
        cells.append(f"{_cell(found['value'], found['interval_95'])} at {false['value']:.2f} FP")
        widths = [18] * len(RATES) + [32]
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{name:34}{part['n_scans']:6}{part['n_lesions']:6}{row}")
        if rows := part.get("froc_without_mimics"):
            apart = [_cell(row["sensitivity"], (row["low"], row["high"])) for row in rows]
            lines.append(f"{'  without candidates at marked mimics':46}" + "".join(f"{cell:>18}" for cell in apart))
    return "\n".join(lines)


def _cell(value: float | None, interval: Sequence[float]) -> str:
    return "-" if value is None else f"{value:.2f} ({interval[0]:.2f}-{interval[1]:.2f})"
