"""The figures of an evaluation, out of fold or on the locked set, each with its interval over subjects: metrics.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Params
from cmb_models.evaluation.froc import ALSO_AT_MM, froc
from cmb_models.evaluation.matching import ScoredScan, judged
from cmb_models.evaluation.metrics import (
    FrocRow,
    choose_threshold,
    count_intervals,
    counts_of,
    froc_table,
    metrics_at,
    pooled,
    pooled_intervals,
)
from cmb_models.evaluation.operating_point import fusion_for, threshold_apart
from cmb_models.evaluation.rows import read_rows
from cmb_models.evaluation.statistics.bootstrap import percentiles, subject_draws
from cmb_models.evaluation.statistics.calibration import adaptive_ece
from cmb_models.evaluation.statistics.counts import agreement
from cmb_models.evaluation.statistics.strata import strata

ALSO_AT_FP = 0.6  # false positives per scan of SHIVA-CMB 2024 and of the multicentre nnU-Net 2026, to compare with
LOOSE = ("sensitivity", "precision", "f1", "fp_per_scan")  # reported at the other tolerances


def cross_validation_metrics(
    scans: Sequence[ScoredScan], folds: Mapping[str, int], params: Params, rng: np.random.Generator
) -> tuple[dict[str, Any], list[FrocRow]]:
    """Figures at the threshold chosen on all out-of-fold scores, and the FROC table.

    Among the figures are those with each fold's threshold chosen on the other folds (`cross_fitted`, free of the optimism of
    choosing and counting on the same scans) and the classifier's weight in the fused score (`stage2_weight`).
    """
    tolerance, most = params.evaluate.tolerance_mm, params.calibrate.max_fp_per_scan
    metrics, table = figures(scans, choose_threshold(froc(scans, tolerance), most), params, rng)
    metrics["stage2_weight"] = fusion_for(scans).stage2_weight
    parts = []
    for fold in sorted(set(folds.values())):
        inside = [s for s in scans if folds[s.subject] == fold]
        outside = [s for s in scans if folds[s.subject] != fold]
        parts.append((inside, threshold_apart(inside, outside, tolerance, most)))
    fitted = pooled_intervals(parts, tolerance, params.evaluate.bootstrap, rng)
    return metrics | {"cross_fitted": pooled(parts, tolerance) | {"intervals_95": fitted}}, table


def locked_metrics(
    scans: Sequence[ScoredScan], threshold: float, params: Params, rng: np.random.Generator
) -> tuple[dict[str, Any], list[FrocRow]]:
    """Figures on the locked test set at the bundle's threshold, with the calibration error of its scores, and the FROC table."""
    metrics, table = figures(scans, threshold, params, rng)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, rng)
    metrics["ece"], metrics["intervals_95"]["ece"] = calibration_error(scans, params.evaluate.tolerance_mm, draws)
    return metrics, table


def recomputed(folder: Path, params: Params) -> tuple[dict[str, Any], list[FrocRow]]:
    """An evaluation's figures and FROC table from the rows saved in its folder alone: the very numbers it reported."""
    saved, rng = read_rows(folder), np.random.default_rng(params.evaluate.seed)
    if saved.folds:
        return cross_validation_metrics(saved.scans, saved.folds, params, rng)
    return locked_metrics(saved.scans, saved.threshold, params, rng)


def figures(
    scans: Sequence[ScoredScan], threshold: float, params: Params, rng: np.random.Generator
) -> tuple[dict[str, Any], list[FrocRow]]:
    """What both evaluations report at a threshold, and the FROC table at the standard rates, all from one set of resamples.

    metrics_at's keys, n_subjects, sensitivity_at_0.6_fp, and intervals_95 of each; within_2_mm and within_5_mm (other
    tolerances); counts (counts.agreement); strata (strata.strata). None stands for what is undefined.
    """
    tolerance = params.evaluate.tolerance_mm
    subjects = [s.subject for s in scans]
    draws = subject_draws(subjects, params.evaluate.bootstrap, rng)
    counts = counts_of(scans, threshold, tolerance)
    metrics: dict[str, Any] = {**metrics_at(scans, threshold, tolerance), "n_subjects": len(set(subjects))}
    metrics["intervals_95"] = count_intervals(counts, draws)
    add_sensitivity_at(metrics, scans, tolerance, draws)
    for other in ALSO_AT_MM:
        metrics[f"within_{other:g}_mm"] = _within(scans, threshold, other, draws)
    metrics["counts"] = agreement(counts[:, 0] + counts[:, 1], counts[:, 2], draws)
    metrics["strata"] = strata(scans, threshold, tolerance, draws)
    return metrics, froc_table(scans, tolerance, draws)


def add_sensitivity_at(metrics: dict[str, Any], scans: Sequence[ScoredScan], tolerance_mm: float, draws: np.ndarray) -> None:
    """Add sensitivity_at_0.6_fp and its interval to metrics, which have `intervals_95`."""
    at, name = froc_table(scans, tolerance_mm, draws, (ALSO_AT_FP,))[0], f"sensitivity_at_{ALSO_AT_FP:g}_fp"
    metrics[name], metrics["intervals_95"][name] = at["sensitivity"], [at["low"], at["high"]]


def _within(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, draws: np.ndarray) -> dict[str, Any]:
    """Figures and intervals with another tolerance of matching."""
    at: dict[str, Any] = {**metrics_at(scans, threshold, tolerance_mm)}
    intervals = count_intervals(counts_of(scans, threshold, tolerance_mm), draws)
    return {n: at[n] for n in LOOSE} | {"intervals_95": {n: intervals[n] for n in LOOSE}}


def calibration_error(scans: Sequence[ScoredScan], tolerance_mm: float, draws: np.ndarray) -> tuple[float, list[float] | None]:
    """Adaptive expected calibration error of all candidates' scores, those at `possible` places left out, and its interval."""
    groups = [judged(s, tolerance_mm) for s in scans]

    def error(chosen: Iterable[int]) -> float:
        parts = [groups[n] for n in chosen if len(groups[n][0])]
        if not parts:
            return 0.0
        scores, hit = (np.concatenate(column) for column in zip(*parts, strict=True))
        return adaptive_ece(scores, hit)

    resampled = np.array([error(np.repeat(np.arange(len(scans)), times).tolist()) for times in draws])
    return error(range(len(scans))), percentiles(resampled)
