"""Making a score mean the share of such candidates that are microbleeds."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from cmb_models.detect.fusion import odds


def fit_platt(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Platt scaling on the logit of the score, by maximum likelihood with Platt's smoothed targets.

    scores: (N,) in [0, 1]. positive: (N,) bool. The slope is kept above 0, so that calibration never reorders candidates.
    Too few to fit (fewer than 5 of either kind) gives (1, 0): scores as they are. Source: Platt 1999; Lin et al. 2007.
    """
    positive = np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) < 5:
        return 1.0, 0.0
    logit = np.log(odds(scores))
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def loss(x: np.ndarray) -> float:
        z = np.exp(x[0]) * logit + x[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.zeros(2), method="BFGS")
    return float(np.exp(best.x[0])), float(best.x[1])


def reliability(scores: np.ndarray, positive: np.ndarray, bins: int = 10) -> np.ndarray:
    """Candidates in bins of equal count by rising score: (bins, 3) of mean score, positives and count. Empty bins are left out.

    scores: (N,) in [0, 1]; positive: (N,) bool. (0, 3) for no candidates.
    """
    groups = np.array_split(np.argsort(scores, kind="stable"), bins)
    rows = [(float(np.mean(scores[g])), int(np.sum(positive[g])), len(g)) for g in groups if len(g)]
    return np.array(rows, dtype=float).reshape(-1, 3)


def adaptive_ece(scores: np.ndarray, positive: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over bins of equal count (Nixon 2019); 0 for no candidates. scores: (N,); positive: (N,)."""
    if not len(scores):
        return 0.0
    mean, hits, count = reliability(scores, positive, bins).T
    return float(np.sum(np.abs(mean * count - hits)) / len(scores))
