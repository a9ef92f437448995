"""Numbers at one threshold, with intervals over subjects, and the choice of that threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from cmb_models.evaluation.froc import STANDARD_FP, Froc, froc, froc_draws
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.statistics.bootstrap import no_narrower, rate_interval, share_interval, subject_draws, wilson

Part = tuple[Sequence[ScoredScan], float]  # scans and the threshold they are judged at
Intervals = dict[str, list[float] | None]  # [low, high]; None where undefined


class Metrics(TypedDict):
    """Figures at one threshold, as `metrics_at` describes them."""

    threshold: float
    n_scans: int
    n_lesions: int
    n_detections: int
    hits: int
    false_positives: int
    sensitivity: float
    precision: float
    f1: float
    fp_per_scan: float
    fp_per_cmb_free_scan: float
    n_cmb_free_scans: int
    mean_scan_sensitivity: float
    scan_sensitivity: float
    scan_specificity: float


class FrocRow(TypedDict):
    """Sensitivity at one FP rate; None without lesions. low and high: its 95 % interval, where resamples are given."""

    fp_per_scan: float
    sensitivity: float | None
    threshold: float
    low: NotRequired[float]
    high: NotRequired[float]


def metrics_at(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float) -> Metrics:
    """Lesion-wise sensitivity, precision, F1 and false positives per scan, pooled over scans; and scan by scan.

    mean_scan_sensitivity: each scan's own, averaged over the scans with CMBs, so that one with many does not outweigh the others.
    scan_sensitivity: share of the scans with CMBs that have a finding, right or wrong; scan_specificity: share of the CMB-free ones
    that have none. With no lesions sensitivity is 1 (nothing was missed) and with no detections precision is 1 (nothing was wrong),
    so that a CMB-free set answered with silence is perfect; n_lesions and n_detections distinguish such cases.
    """
    return _summary(counts_of(scans, threshold, tolerance_mm), threshold)


def counts_of(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float) -> np.ndarray:
    """(S, 4) integers: hits, false positives, lesions, and 1 if the scan has no CMB."""
    rows = []
    for scan in scans:
        found = match(scan, threshold, tolerance_mm)
        rows.append((found.hits, found.false_positives, len(scan.cmbs), not scan.cmbs))
    return np.array(rows, dtype=int).reshape(-1, 4)


def _summary(counts: np.ndarray, threshold: float) -> Metrics:
    hits, false, lesions, _ = counts.sum(axis=0).tolist()
    free = counts[counts[:, 3] == 1]
    found = hits + false
    shares = {n: float(part.sum() / whole.sum()) if whole.sum() else 1.0 for n, (part, whole) in _scan_shares(counts).items()}
    return {
        "threshold": threshold,
        "n_scans": len(counts),
        "n_lesions": lesions,
        "n_detections": found,
        "hits": hits,
        "false_positives": false,
        "sensitivity": hits / lesions if lesions else 1.0,
        "precision": hits / found if found else 1.0,
        "f1": 2 * hits / (found + lesions) if found + lesions else 1.0,
        "fp_per_scan": false / len(counts) if len(counts) else 0.0,
        "fp_per_cmb_free_scan": float(free[:, 1].mean()) if len(free) else 0.0,
        "n_cmb_free_scans": len(free),
        "mean_scan_sensitivity": shares["mean_scan_sensitivity"],
        "scan_sensitivity": shares["scan_sensitivity"],
        "scan_specificity": shares["scan_specificity"],
    }


def _scan_shares(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The figures that count scans: name to part and whole, (S,) each."""
    hits, false, lesions, free = counts.T
    marked, silent = 1 - free, hits + false == 0
    return {
        "mean_scan_sensitivity": (hits / np.maximum(lesions, 1), marked),
        "scan_sensitivity": (marked * ~silent, marked),
        "scan_specificity": (free * silent, free),
    }


def pooled(parts: Sequence[Part], tolerance_mm: float) -> Metrics:
    """Metrics over groups of scans that each have a threshold of their own; `threshold` is their mean."""
    counts = np.concatenate([counts_of(scans, threshold, tolerance_mm) for scans, threshold in parts])
    return _summary(counts, float(np.mean([threshold for _, threshold in parts])))


def pooled_intervals(parts: Sequence[Part], tolerance_mm: float, resamples: int, rng: np.random.Generator) -> Intervals:
    """95 % intervals of `pooled`'s figures over subjects, the thresholds being what they are."""
    counts = np.concatenate([counts_of(scans, threshold, tolerance_mm) for scans, threshold in parts])
    return count_intervals(counts, subject_draws([s.subject for scans, _ in parts for s in scans], resamples, rng))


def intervals(
    scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, resamples: int, rng: np.random.Generator
) -> Intervals:
    """95 % intervals over subjects of sensitivity, precision, f1, fp_per_scan, fp_per_cmb_free_scan and what counts scans."""
    draws = subject_draws([s.subject for s in scans], resamples, rng)
    return count_intervals(counts_of(scans, threshold, tolerance_mm), draws)


def count_intervals(counts: np.ndarray, draws: np.ndarray) -> Intervals:
    """The same of counts (S, 4) by `counts_of`, in the resamples draws (B, S) of bootstrap.subject_draws."""
    hits, false, lesions, free = counts.T
    free = free == 1
    return {
        "sensitivity": share_interval(hits, lesions, draws),
        "precision": share_interval(hits, hits + false, draws),
        "f1": share_interval(hits, (hits + false + lesions) / 2, draws),
        "fp_per_scan": rate_interval(false, draws),
        "fp_per_cmb_free_scan": rate_interval(false[free], draws[:, free]),
        **{name: share_interval(part, whole, draws) for name, (part, whole) in _scan_shares(counts).items()},
    }


def choose_threshold(curve: Froc, max_fp_per_scan: float) -> float:
    """The threshold with the highest sensitivity at no more than `max_fp_per_scan`, and among equals the fewest false positives.

    Set halfway down to the next lower score: one at the very score of a lesion would lose it to a change in the last bit.
    """
    best = int(np.argmax(np.where(curve.fp_per_scan <= max_fp_per_scan, curve.hits, -1)))
    upper = float(curve.thresholds[best])
    lower = float(curve.thresholds[best + 1]) if best + 1 < len(curve.thresholds) else 0.0
    return (upper + lower) / 2


def froc_table(
    scans: Sequence[ScoredScan],
    tolerance_mm: float,
    draws: np.ndarray | None = None,
    rates: Sequence[float] = STANDARD_FP,
) -> list[FrocRow]:
    """Sensitivity and its threshold at rates of false positives per scan.

    With draws (B, S) also its 95 % interval, low and high, no narrower than Wilson's, as in bootstrap.share_interval. Without
    lesions sensitivity is None.
    """
    curve = froc(scans, tolerance_mm)
    rows: list[FrocRow] = []
    resampled = None if draws is None else froc_draws(scans, tolerance_mm, rates, draws)
    for n, rate in enumerate(rates):
        sensitivity, threshold = curve.at_fp(rate)
        row: FrocRow = {"fp_per_scan": rate, "sensitivity": sensitivity if curve.n_lesions else None, "threshold": threshold}
        if resampled is not None:
            found = round(sensitivity * curve.n_lesions) if curve.n_lesions else 0
            row["low"], row["high"] = no_narrower(resampled[:, n], wilson(found, curve.n_lesions))
        rows.append(row)
    return rows
