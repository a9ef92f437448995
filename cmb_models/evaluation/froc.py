"""Sensitivity against false positives per scan, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.evaluation.matching import ScoredScan, match

STANDARD_FP = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # FP per scan at which FROC is read (LUNA16's convention and 1/8, FACTS 4)


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
    """The FROC curve of several scans, matched anew at every threshold (a lower one can change who matches whom).

    No detections at all give one point, threshold 1 with no hits.
    """
    events: list[tuple[float, int, int]] = []  # at this score, this scan's hits and false positives rise by so much
    for scan in scans:
        hits = false = 0
        for score in sorted(set(scan.scores.tolist()), reverse=True):
            found = match(scan, score, tolerance_mm)
            events.append((score, found.hits - hits, found.false_positives - false))
            hits, false = found.hits, found.false_positives
    thresholds = np.array(sorted({1.0, *(e[0] for e in events)}, reverse=True))
    rises = np.zeros((len(thresholds), 2), dtype=int)
    place = {t: n for n, t in enumerate(thresholds.tolist())}
    for score, more_hits, more_false in events:
        rises[place[score]] += (more_hits, more_false)
    total = rises.cumsum(axis=0)
    return Froc(thresholds, total[:, 0], total[:, 1], sum(len(s.cmbs) for s in scans), len(scans))


def mean_sensitivity(curve: Froc, fp_per_scan: float) -> float:
    """Mean sensitivity at 1/8, 1/4, ... FP per scan up to `fp_per_scan`: the objective of tuning, in [0, 1]."""
    levels = [f for f in STANDARD_FP if f <= fp_per_scan] or [fp_per_scan]
    return float(np.mean([curve.at_fp(level)[0] for level in levels]))
