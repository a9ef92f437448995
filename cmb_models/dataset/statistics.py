"""Statistics by which scans are compared with those that a release was trained on.

Of each quantity the training data are kept as quantiles. Intensities are ratios, since scanners scale them as they like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from cmb_models.volume import Volume

IN_PLANE, SLICE = "in_plane_mm", "slice_mm"  # shortest and longest side of a voxel
SPREAD, BRIGHT = "spread_to_median", "p99_to_median"  # of the head's intensities
BEST_SCORE, DETECTIONS = "best_score", "detections"  # of a scan
QUANTITIES = (IN_PLANE, SLICE, SPREAD, BRIGHT, BEST_SCORE, DETECTIONS)
SAMPLE = (4, 4, 2)  # every so many voxels along the stored axes one is enough for intensities
HEAD = 0.15  # of the 99th percentile: brighter voxels are the head; the default of preprocess.foreground_fraction
MM_DIGITS = 2  # that voxel sizes are rounded to: headers hold them in single precision
PROBABILITIES = tuple(n / 20 for n in range(21))
SHOWN = (1, 10, 19)  # of PROBABILITIES: 5, 50 and 95 %
ALPHA = 0.001  # probability of a flag, at most, where scans come from the same distribution


class Reference(TypedDict):
    """One quantity of the training data.

    scans: how many have it. quantiles: at PROBABILITIES, each a value that occurs. at_most: share of scans up to each quantile.
    """

    scans: int
    quantiles: list[float]
    at_most: list[float]


class Comparison(TypedDict):
    """One quantity of a cohort and of the training data, as `compare` describes."""

    cohort: list[float]
    training: list[float]
    outside: float
    distance: float
    outside_flag: bool
    distance_flag: bool


def intensities(volume: Volume) -> dict[str, float | None]:
    """Median, 99th percentile, SPREAD and BRIGHT of a scan's intensities; None where there are none.

    Zeros and non-finite voxels are left out. SPREAD is the 5th to 95th percentile range of the head over its median, by which the
    networks' input is scaled, BRIGHT its 99th percentile over its median.

    Args:
        volume: A scan (I, J, K), any orientation and intensity scale.
    """
    sampled = volume.data[tuple(slice(None, None, n) for n in SAMPLE)]
    tissue = sampled[np.isfinite(sampled) & (sampled > 0)]
    if not tissue.size:
        return dict.fromkeys(("median_intensity", "p99_intensity", SPREAD, BRIGHT))
    median, p99 = (float(q) for q in np.percentile(tissue, (50, 99)))
    p5, middle, p95, bright = (float(q) for q in np.percentile(tissue[tissue > HEAD * p99], (5, 50, 95, 99)))
    return {"median_intensity": median, "p99_intensity": p99, SPREAD: (p95 - p5) / middle, BRIGHT: bright / middle}


def sides(spacing_mm: Iterable[float]) -> dict[str, float]:
    """IN_PLANE and SLICE of a voxel, mm, whatever the order of the axes. spacing_mm: three numbers."""
    ordered = sorted(spacing_mm)
    return {IN_PLANE: round(float(ordered[0]), MM_DIGITS), SLICE: round(float(ordered[-1]), MM_DIGITS)}


def reference(values: Sequence[float]) -> Reference | None:
    """The quantiles of a quantity over scans; None without any."""
    if not len(values):
        return None
    ordered = np.sort(np.asarray(values, dtype=float))
    quantiles = np.quantile(ordered, PROBABILITIES, method="inverted_cdf")
    at_most = np.searchsorted(ordered, quantiles, side="right") / len(ordered)
    return {"scans": len(ordered), "quantiles": quantiles.tolist(), "at_most": at_most.tolist()}


def references(scans: Iterable[Mapping[str, float | None]]) -> dict[str, Reference]:
    """The reference of each of QUANTITIES that scans have."""
    columns: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for scan in scans:
        for name in QUANTITIES:
            if (value := scan.get(name)) is not None:
                columns[name].append(value)
    return {name: found for name, values in columns.items() if (found := reference(values))}


def compare(training: Reference, values: Sequence[float]) -> Comparison | None:
    """Compare scans with the training data by one quantity; None without scans.

    `outside` is the share of scans beyond the lowest or highest value of the training data. Of n + m exchangeable scans, the number
    outside the range of n follows a beta-binomial distribution whatever the quantity's (Wilks 1941, Ann. Math. Stat. 12:91), by
    which it is flagged. `distance` is the largest difference between both distribution functions at the training data's quantiles,
    at most the two-sample Kolmogorov-Smirnov statistic, and flagged above that one's asymptotic critical value (Smirnov 1948, Ann.
    Math. Stat. 19:279). Both at ALPHA.

    Args:
        training: Of the training data.
        values: Of m scans.

    Returns:
        The 5th, 50th and 95th percentiles of both, shares and flags.
    """
    from scipy.stats import betabinom

    if not len(values):
        return None
    ordered, n, m = np.sort(np.asarray(values, dtype=float)), training["scans"], len(values)
    quantiles = np.asarray(training["quantiles"])
    outside = int(((ordered < quantiles[0]) | (ordered > quantiles[-1])).sum())
    shares = np.searchsorted(ordered, quantiles, side="right") / m
    below = np.searchsorted(ordered, quantiles[0], side="left") / m  # of the cohort, where the training data have none
    distance = max(float(np.abs(shares - training["at_most"]).max()), float(below))
    critical = np.sqrt(-np.log(ALPHA / 2) / 2 * (n + m) / (n * m))
    return {
        "cohort": [float(q) for q in np.quantile(ordered, [PROBABILITIES[s] for s in SHOWN])],
        "training": [training["quantiles"][s] for s in SHOWN],
        "outside": outside / m,
        "distance": distance,
        "outside_flag": bool(n > 1 and betabinom(m, 2, n - 1).sf(outside - 1) < ALPHA),
        "distance_flag": bool(distance > critical),
    }
