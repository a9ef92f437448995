"""How far a figure could be off: resampling subjects, since lesions of one brain are not independent.

All figures of an evaluation share one set of draws, so that their intervals belong together and do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2, norm

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
LEAST_DEFINED = 0.5  # share of resamples that must give a number for an interval to be reported


def subject_draws(subjects: Sequence[str], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each scan is in each resample: (B, S) int. subjects: of each of S scans; all scans of one go together.

    (B, 0) for no scans.
    """
    names, own = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    times = np.zeros((resamples, len(names)), dtype=int)
    if len(names):
        chosen = rng.integers(len(names), size=times.shape)
        np.add.at(times, (np.arange(resamples)[:, None], chosen), 1)
    return times[:, own]


def percentiles(values: np.ndarray) -> list[float] | None:
    """95 % percentile interval of a figure's resamples (B,); NaN where one is undefined. None when that is so in most of them."""
    defined = values[np.isfinite(values)]
    if len(defined) < max(1, LEAST_DEFINED * len(values)):
        return None
    return [float(q) for q in np.percentile(defined, LEVEL)]


def ratio(part: np.ndarray, whole: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """sum(part) / sum(whole) in each resample (B,), NaN where whole is 0. part, whole: (S,); draws: (B, S)."""
    above, below = draws @ np.asarray(part, dtype=float), draws @ np.asarray(whole, dtype=float)
    ratios: np.ndarray = np.divide(above, below, out=np.full(len(draws), np.nan), where=below > 0)
    return ratios


def no_narrower(resampled: np.ndarray, independent: list[float]) -> list[float]:
    """95 % interval of a figure from its resamples (B,), opened to hold `independent`, that of as many independent lesions.

    Lesions of one brain never carry more information than independent ones; a narrower interval means too few subjects (Cameron,
    Gelbach and Miller, Rev Econ Stat 2008). With 2 lesions in each of 3, 6, 12 and 40 brains, found with a chance that
    varies from brain to brain, 73, 86, 90 and 94 % of percentile intervals hold the truth, and 98, 95, 97 and 96 % of these.
    """
    low, high = percentiles(resampled) or independent
    return [min(low, independent[0]), max(high, independent[1])]


def share_interval(part: np.ndarray, whole: np.ndarray, draws: np.ndarray) -> list[float]:
    """95 % interval of a share in [0, 1], sum(part) / sum(whole), both (S,) a scan, `no_narrower` than Wilson's.

    [0, 1] when whole is 0: nothing is known.
    """
    return no_narrower(ratio(part, whole, draws), wilson(float(np.sum(part)), float(np.sum(whole))))


def wilson(found: float, total: float) -> list[float]:
    """95 % score interval of `found` of `total` independent trials (Wilson, JASA 1927); [0, 1] for none.

    SciPy's takes whole numbers; a mean of shares has fractions, and the whole of an F1 halves.
    """
    if total <= 0:
        return [0.0, 1.0]
    z = float(norm.ppf(LEVEL[1] / 100))
    share, spread = found / total, z * np.sqrt(found / total * (1 - found / total) / total + (z / total / 2) ** 2)
    middle, scale = share + z**2 / total / 2, 1 + z**2 / total
    # At the ends the bound is the end itself; rounding would leave it a little off.
    low, high = (middle - spread) / scale if found > 0 else 0.0, (middle + spread) / scale if found < total else 1.0
    return [float(low), float(high)]


def rate_interval(events: np.ndarray, draws: np.ndarray) -> list[float] | None:
    """95 % interval of events a scan, events (S,), `no_narrower` than `poisson`'s; None for no scans."""
    if not len(events):
        return None
    return no_narrower(ratio(events, np.ones(len(events)), draws), poisson(int(np.sum(events)), len(events)))


def poisson(events: int, scans: int) -> list[float]:
    """Exact 95 % interval of the rate of independent events a scan (Garwood, Biometrika 1936); none of them: [0, 3.7 / scans]."""
    tails = (1 - LEVEL[1] / 100, LEVEL[1] / 100)
    low = chi2.ppf(tails[0], 2 * events) / 2 if events else 0.0
    return [float(low / scans), float(chi2.ppf(tails[1], 2 * events + 2) / 2 / scans)]
