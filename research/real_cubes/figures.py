"""Figures of scored sites: shares and area under the ROC curve, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_models.evaluation.statistics.bootstrap import percentiles, share_interval, subject_draws
from research.real_cubes.scoring import SiteScore

RESAMPLES, SEED = 10_000, 0


def share(patients: Sequence[str], yes: Sequence[bool]) -> dict:
    """Share of sites that are `yes`, both (N,), and its 95 % interval over patients (no narrower than Wilson's)."""
    draws = subject_draws(patients, RESAMPLES, np.random.default_rng(SEED))
    interval = share_interval(np.asarray(yes, float), np.ones(len(yes)), draws)
    return {"count": int(np.sum(yes)), "of": len(yes), "share": float(np.mean(yes)) if len(yes) else None, "interval_95": interval}


def auc(patients: Sequence[str], positive: Sequence[bool], scores: Sequence[float]) -> dict:
    """Area under the ROC curve and its 95 % percentile interval over patients; None where a class is missing.

    patients, positive, scores: (N,). A resample without one of the classes is left out of the interval.
    """
    value = np.asarray(scores, float)
    yes = np.asarray(positive, bool)
    difference = value[yes][:, None] - value[~yes]
    wins = (difference > 0) + 0.5 * (difference == 0)
    draws = subject_draws(patients, RESAMPLES, np.random.default_rng(SEED))
    ones, others = draws[:, yes], draws[:, ~yes]
    pairs = ones.sum(axis=1) * others.sum(axis=1)
    areas = np.divide(
        np.einsum("bi,ij,bj->b", ones, wins, others, optimize=True), pairs, out=np.full(len(draws), np.nan), where=pairs > 0
    )
    return {"auc": float(wins.mean()) if wins.size else None, "interval_95": percentiles(areas) if wins.size else None}


def medians(scores: Sequence[SiteScore]) -> dict:
    """Number of sites and the median of each score; None for no sites."""
    middle = {name: _median([getattr(s, name) for s in scores]) for name in ("stage1", "stage2", "fused")}
    return {"sites": len(scores), **middle}


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if len(values) else None
