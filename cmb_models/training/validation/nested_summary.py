"""The figures of a nested cross-validation: each outer fold at a threshold, and with a calibration, that knew nothing of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Decision, Params
from cmb_models.dataset.leakage import keep_apart
from cmb_models.detect.fusion import calibrated
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import Part, froc_table, metrics_at, pooled, pooled_intervals
from cmb_models.evaluation.operating_point import decide_on
from cmb_models.evaluation.rows import DETECTION_ROW, detection_rows, read_rows
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.summary import add_sensitivity_at, calibration_error
from cmb_models.files import atomic_write

NESTED = "nested_detections.csv"
ROW = ("fold", "threshold", *DETECTION_ROW)


@dataclass(frozen=True)
class OuterFold:
    """One outer fold of nested cross-validation.

    inner: the other folds' scans with fused scores out of the inner folds. outer: this fold's scans with scores of networks trained
    on all of `inner`. chosen: settings tuned on `inner`, {"unet": ..., "cnn": ...}, as in models/tuned/*.json.
    """

    number: int
    inner: tuple[ScoredScan, ...]
    outer: tuple[ScoredScan, ...]
    chosen: dict[str, dict]


@dataclass(frozen=True)
class Decided:
    """The scans of an outer fold with calibrated scores, and the decision that was made for them inside."""

    number: int
    scans: tuple[ScoredScan, ...]
    decision: Decision


def decide_inside(fold: OuterFold, params: Params) -> Decided:
    """Choose the threshold and fit the calibration on the inner scores, as a release's are on its own, and apply both.

    Raises InputError when a subject of the outer fold is among the inner ones.
    """
    inner, outer = ({s.subject for s in scans} for scans in (fold.inner, fold.outer))
    what = f"the threshold and calibration of outer fold {fold.number + 1}"
    keep_apart(what, inner, outer, "this is a fault of the program: report it")
    decision = decide_on(fold.inner, params)
    return Decided(fold.number, tuple(replace(s, scores=calibrated(s.scores, decision)) for s in fold.outer), decision)


def nested_metrics(folds: Sequence[OuterFold], params: Params, rng: np.random.Generator) -> tuple[dict, list[Decided]]:
    """Pooled figures over the outer folds, each at its own threshold, with intervals over subjects; and what was decided.

    Keys of metrics.pooled, sensitivity_at_0.6_fp, `intervals_95`, `ece` of the calibrated scores, `froc` of these with intervals,
    and `folds`: for each outer fold its decision, its own figures and the trials chosen for it.
    """
    tolerance, decided = params.evaluate.tolerance_mm, [decide_inside(f, params) for f in folds]
    metrics = _figures([(d.scans, d.decision.threshold) for d in decided], params, rng)
    metrics["folds"] = [
        metrics_at(d.scans, d.decision.threshold, tolerance) | d.decision.model_dump() | {"chosen": _short(f.chosen)}
        for d, f in zip(decided, folds, strict=True)
    ]
    return metrics, decided


def _figures(parts: Sequence[Part], params: Params, rng: np.random.Generator) -> dict:
    """What all outer folds together come to, each at its own threshold. parts: calibrated scans and threshold of each."""
    tolerance, resamples = params.evaluate.tolerance_mm, params.evaluate.bootstrap
    scans = [s for part, _ in parts for s in part]
    metrics: dict[str, Any] = {**pooled(parts, tolerance), "intervals_95": pooled_intervals(parts, tolerance, resamples, rng)}
    draws = subject_draws([s.subject for s in scans], resamples, rng)
    metrics["ece"], metrics["intervals_95"]["ece"] = calibration_error(scans, tolerance, draws)
    add_sensitivity_at(metrics, scans, tolerance, draws)
    return metrics | {"froc": froc_table(scans, tolerance, draws)}


def recomputed_nested(folder: Path, params: Params) -> dict | None:
    """`nested_metrics` but for its `folds`, from the rows saved in its folder alone; None where there are none.

    The marked lesions are those of the plain evaluation next to it: the scans are the same. Raises InputError when the file is not
    there, or holds no candidate of some fold, whose threshold is then unknown.
    """
    file = Path(folder) / NESTED
    if not file.is_file():
        raise InputError("file-not-found", file, "the saved rows of a nested evaluation", "no such file", "run `dvc repro`")
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        return None
    saved = read_rows(folder, rows)
    # What is nested is out of fold.
    assert saved.folds is not None
    thresholds = {int(row["fold"]): float(row["threshold"]) for row in rows}
    if missing := sorted(set(saved.folds.values()) - set(thresholds)):
        got = f"none of fold {missing[0] + 1}"
        raise InputError(
            "rows-invalid", file, "candidates of every fold", got, "lower detect_candidates.candidates.floor or train longer"
        )
    parts = [([s for s in saved.scans if saved.folds[s.subject] == fold], t) for fold, t in sorted(thresholds.items())]
    return _figures(parts, params, np.random.default_rng(params.evaluate.seed))


def _short(chosen: dict[str, dict]) -> dict[str, dict]:
    """Settings, study and trial of each stage; the other trials stay in the study."""
    return {stage: {k: tuned[k] for k in ("settings", "study", "trial")} for stage, tuned in chosen.items()}


def write_nested_rows(path: Path, decided: Sequence[Decided], tolerance_mm: float) -> None:
    """Write a row a candidate (rows.detection_rows) with its outer fold and that fold's threshold; a header alone for no folds."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROW, lineterminator="\n")
        writer.writeheader()
        for fold in decided:
            threshold = fold.decision.threshold
            for row in detection_rows(fold.scans, threshold, tolerance_mm):
                writer.writerow({"fold": fold.number, "threshold": repr(threshold), **row})
