"""Numbers at one threshold, with intervals over subjects, and the choice of that threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_models.evaluation.froc import STANDARD_FP, Froc, froc
from cmb_models.evaluation.matching import ScoredScan, match


def metrics_at(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float) -> dict[str, float | int]:
    """Lesion-wise sensitivity, precision, F1 and false positives per scan, pooled over scans.

    With no lesions sensitivity is 1 (nothing was missed) and with no detections precision is 1 (nothing was wrong), so that a
    CMB-free set answered with silence is perfect; n_lesions and n_detections tell such cases apart.
    """
    return _summary(_counts(scans, threshold, tolerance_mm), threshold)


def _counts(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float) -> np.ndarray:
    """(S, 4) integers: hits, false positives, lesions, and 1 if the scan has no CMB."""
    rows = []
    for scan in scans:
        found = match(scan, threshold, tolerance_mm)
        rows.append((found.hits, found.false_positives, len(scan.cmbs), not scan.cmbs))
    return np.array(rows, dtype=int).reshape(-1, 4)


def _summary(counts: np.ndarray, threshold: float) -> dict[str, float | int]:
    hits, false, lesions, _ = counts.sum(axis=0).tolist()
    free = counts[counts[:, 3] == 1]
    found = hits + false
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
    }


def pooled(parts: Sequence[tuple[Sequence[ScoredScan], float]], tolerance_mm: float) -> dict[str, float | int]:
    """Metrics over groups of scans that each have a threshold of their own; `threshold` is their mean."""
    counts = np.concatenate([_counts(scans, threshold, tolerance_mm) for scans, threshold in parts])
    return _summary(counts, float(np.mean([threshold for _, threshold in parts])))


def intervals(
    scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, resamples: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals over subjects of sensitivity, precision, f1 and fp_per_scan.

    Subjects are resampled, not lesions: lesions of one brain are not independent.
    """
    counts = _counts(scans, threshold, tolerance_mm)
    subjects = sorted({s.subject for s in scans})
    rows_of = [np.flatnonzero([s.subject == name for s in scans]) for name in subjects]
    draws = []
    for _ in range(resamples):
        chosen = np.concatenate([rows_of[n] for n in rng.integers(len(subjects), size=len(subjects))])
        draws.append(_summary(counts[chosen], threshold))
    names = ("sensitivity", "precision", "f1", "fp_per_scan")
    return {n: [float(q) for q in np.percentile([d[n] for d in draws], (2.5, 97.5))] for n in names}


def choose_threshold(curve: Froc, max_fp_per_scan: float) -> float:
    """The threshold with the highest sensitivity at no more than `max_fp_per_scan`, and among equals the fewest false positives.

    Set halfway down to the next lower score: one at the very score of a lesion would lose it to a change in the last bit.
    """
    best = int(np.argmax(np.where(curve.fp_per_scan <= max_fp_per_scan, curve.hits, -1)))
    upper = float(curve.thresholds[best])
    lower = float(curve.thresholds[best + 1]) if best + 1 < len(curve.thresholds) else 0.0
    return (upper + lower) / 2


def froc_table(scans: Sequence[ScoredScan], tolerance_mm: float) -> list[dict[str, float]]:
    """Sensitivity and its threshold at the standard rates of false positives per scan."""
    curve = froc(scans, tolerance_mm)
    rows = []
    for rate in STANDARD_FP:
        sensitivity, threshold = curve.at_fp(rate)
        rows.append({"fp_per_scan": rate, "sensitivity": sensitivity, "threshold": threshold})
    return rows
