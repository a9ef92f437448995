"""Sensitivity against false positives per scan, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.evaluation.matching import ScoredScan, match

STANDARD_FP = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # FP per scan at which FROC is read (LUNA16's convention and 1/8)
ALSO_AT_MM = (2.0, 5.0)  # The primary tolerance is shown with a stricter and a looser one


@dataclass(frozen=True)
class Froc:
    """One point per distinct score, thresholds falling. hits, false_positives: (T,) totals over all scans."""

    thresholds: np.ndarray
    hits: np.ndarray
    false_positives: np.ndarray
    n_lesions: int
    n_scans: int

    @property
    def sensitivity(self) -> np.ndarray:
        """(T,) in [0, 1]; NaN when there are no lesions at all."""
        return self.hits / self.n_lesions if self.n_lesions else np.full(len(self.hits), np.nan)

    @property
    def fp_per_scan(self) -> np.ndarray:
        return self.false_positives / self.n_scans

    def at_fp(self, fp_per_scan: float) -> tuple[float, float]:
        """Highest sensitivity at no more than `fp_per_scan` and its threshold; (0, 1) if even the best score exceeds it.

        Read from the steps, not interpolated: a threshold with this sensitivity exists.
        """
        allowed = np.flatnonzero(self.fp_per_scan <= fp_per_scan)
        if not len(allowed):
            return 0.0, 1.0
        best = allowed[np.argmax(self.hits[allowed])]
        return float(self.sensitivity[best]), float(self.thresholds[best])


def froc(scans: Sequence[ScoredScan], tolerance_mm: float) -> Froc:
    """The FROC curve of several scans, matched again at every threshold (a lower one can change who matches whom).

    No detections at all give one point, threshold 1 with no hits.
    """
    thresholds, hits, false = steps(scans, tolerance_mm)
    return Froc(thresholds, hits.sum(axis=0), false.sum(axis=0), sum(len(s.cmbs) for s in scans), len(scans))


def steps(scans: Sequence[ScoredScan], tolerance_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All thresholds (T,), falling from 1, with each scan's hits and false positives there, both (S, T) int."""
    thresholds = np.array(sorted({1.0, *(t for s in scans for t in s.scores.tolist())}, reverse=True))
    place = {t: n for n, t in enumerate(thresholds.tolist())}
    rises = np.zeros((2, len(scans), len(thresholds)), dtype=int)
    for n, scan in enumerate(scans):
        hits = false = 0
        for score in sorted(set(scan.scores.tolist()), reverse=True):
            found = match(scan, score, tolerance_mm)
            rises[:, n, place[score]] = found.hits - hits, found.false_positives - false
            hits, false = found.hits, found.false_positives
    return thresholds, *rises.cumsum(axis=2)


def froc_draws(scans: Sequence[ScoredScan], tolerance_mm: float, rates: Sequence[float], draws: np.ndarray) -> np.ndarray:
    """Sensitivity at each of R rates of false positives per scan in each resample of the scans, (B, R), as `at_fp` reads it.

    draws: (B, S), bootstrap.subject_draws. NaN in a resample without lesions.
    """
    _, hits, false = steps(scans, tolerance_mm)
    lesions = draws @ np.array([len(s.cmbs) for s in scans], dtype=float)
    hits, fp_per_scan = draws @ hits, draws @ false / draws.sum(axis=1, keepdims=True)
    most = np.stack([np.where(fp_per_scan <= rate, hits, 0).max(axis=1) for rate in rates], axis=1)
    sensitivity: np.ndarray = np.divide(most, lesions[:, None], out=np.full(most.shape, np.nan), where=lesions[:, None] > 0)
    return sensitivity


def mean_sensitivity(curve: Froc, fp_per_scan: float) -> float:
    """Mean sensitivity at 1/8, 1/4, ... FP per scan up to `fp_per_scan`: the objective of tuning, in [0, 1]."""
    levels = [f for f in STANDARD_FP if f <= fp_per_scan] or [fp_per_scan]
    return float(np.mean([curve.at_fp(level)[0] for level in levels]))
