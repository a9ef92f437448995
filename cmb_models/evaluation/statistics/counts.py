"""How well the number of microbleeds found in a scan agrees with the number marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmb_models.evaluation.statistics.bootstrap import percentiles

STRATA = ("0", "1-4", "5-9", "10 or more")  # as used clinically
_FROM = (1, 5, 10)  # the first count of each stratum after the first
LIMITS = 1.96  # standard deviations that hold 95 % of a normal distribution


def stratum(counts: np.ndarray) -> np.ndarray:
    """Number of the clinical stratum (STRATA) of each count (N,) of 0 or more."""
    return np.searchsorted(_FROM, counts, side="right")


def icc_2_1(ratings: np.ndarray) -> float:
    """Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, single rater. At most 1.

    ratings: (n, k), n scans by k raters. NaN where it is undefined: fewer than two scans or raters, or no variance at all, when
    agreement cannot be distinguished from constancy. Source: Shrout & Fleiss, Psychological Bulletin 1979.
    """
    ratings = np.asarray(ratings, dtype=float)
    n, k = ratings.shape
    if n < 2 or k < 2:
        return float("nan")
    grand, scans, raters = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    between_scans = k * np.sum((scans - grand) ** 2) / (n - 1)
    between_raters = n * np.sum((raters - grand) ** 2) / (k - 1)
    error = np.sum((ratings - scans[:, None] - raters[None] + grand) ** 2) / ((n - 1) * (k - 1))
    below = between_scans + (k - 1) * error + k * (between_raters - error) / n
    return float((between_scans - error) / below) if below > 1e-12 else float("nan")


def bland_altman(found: np.ndarray, marked: np.ndarray) -> tuple[float, float, float]:
    """Bias, the mean of found - marked, and the 95 % limits of agreement, bias -+ 1.96 standard deviations; counts (N,).

    NaN without scans, and for the limits with fewer than two. Source: Bland & Altman, Lancet 1986.
    """
    difference = np.asarray(found, dtype=float) - np.asarray(marked, dtype=float)
    if not len(difference):
        return float("nan"), float("nan"), float("nan")
    bias = float(difference.mean())
    spread = LIMITS * float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return bias, bias - spread, bias + spread


def weighted_kappa(found: np.ndarray, marked: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights over the clinical strata of counts (N,), at most 1.

    NaN where it is undefined: no scans, or all counts on both sides in one stratum, so that chance alone agrees wholly.
    Sources: Cohen, Psychological Bulletin 1968; quadratic weights: Fleiss & Cohen 1973.
    """
    a, b = stratum(np.asarray(found)), stratum(np.asarray(marked))
    if not len(a):
        return float("nan")
    observed = np.mean((a - b) ** 2)
    by_chance = np.mean((a[:, None] - b[None]) ** 2)
    return float(1 - observed / by_chance) if by_chance > 0 else float("nan")


def agreement(found: np.ndarray, marked: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """icc, bias, lower_limit, upper_limit, weighted_kappa and intervals_95 of each, of counts (S,); None where undefined.

    draws: (B, S), bootstrap.subject_draws. Also the mean counts, which the bias is a difference of.
    """
    found, marked = np.asarray(found), np.asarray(marked)
    resampled = np.array([_figures(np.repeat(found, times), np.repeat(marked, times)) for times in draws]).reshape(-1, 5)
    names = ("icc", "bias", "lower_limit", "upper_limit", "weighted_kappa")
    figures = dict(zip(names, (_plain(v) for v in _figures(found, marked)), strict=True))
    intervals = {name: percentiles(values) for name, values in zip(names, resampled.T, strict=True)}
    means = {"mean_found": _plain(found.mean()), "mean_marked": _plain(marked.mean())} if len(found) else {}
    return {"n_scans": len(found), **means, **figures, "intervals_95": intervals}


def _figures(found: np.ndarray, marked: np.ndarray) -> tuple[float, ...]:
    return icc_2_1(np.stack([found, marked], axis=1)), *bland_altman(found, marked), weighted_kappa(found, marked)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
