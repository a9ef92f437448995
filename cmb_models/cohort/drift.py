"""Drift: a cohort compared with the data that its release was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cmb_models.base_release import BASE
from cmb_models.dataset.statistics import (
    BEST_SCORE,
    BRIGHT,
    DETECTIONS,
    IN_PLANE,
    PROBABILITIES,
    QUANTITIES,
    SLICE,
    SPREAD,
    Reference,
    sides,
)
from cmb_models.errors import InputError

if TYPE_CHECKING:
    from cmb_models.release.bundle import Bundle


SHOWN = (1, 10, 19)  # of PROBABILITIES: 5, 50 and 95 %
ALPHA = 0.001  # probability of a flag, at most, where scans come from the same distribution


class Comparison(TypedDict):
    """One quantity of a cohort and of the training data, as `compare` describes."""

    cohort: list[float]
    training: list[float]
    outside: float
    distance: float
    outside_flag: bool
    distance_flag: bool


class Drift(TypedDict):
    """Comparisons by quantity, and the quantities that the release's metadata do not have or that cannot be compared."""

    quantities: dict[str, Comparison]
    not_compared: list[str]


def open_release(name: str, manifest_sha256: str | None) -> Bundle:
    """The verified bundle whose training data a cohort is compared with.

    Args:
        name: A bundle's folder, or "base" for the base release.
        manifest_sha256: Of the release that earlier results in the same folder have; None for new ones.

    Raises:
        InputError: If the bundle is not valid or not signed by a trusted key, or is another release.
    """
    from cmb_models.release.base import load_base
    from cmb_models.release.bundle import load_bundle
    from cmb_models.release.keys import bundle_keys, trusted_keys

    here = Path()
    bundle = load_base(trusted_keys(here)) if name == BASE else load_bundle(Path(name), bundle_keys(Path(name), here))
    if manifest_sha256 not in (None, bundle.manifest_sha256):
        expected, got = (f"the release {sha256[:12]}" for sha256 in (str(manifest_sha256), bundle.manifest_sha256))
        raise InputError("results-mixed", bundle.path, expected, got, "pass the bundle of the release that the results are of")
    return bundle


def drift(scans: Mapping[str, Sequence[Any]], training: Mapping[str, Reference], threshold: float | None) -> Drift:
    """Compare a cohort's processed scans with the training data.

    Args:
        scans: Columns of the table of scans, of those that were processed.
        training: By quantity, as of `training_references`.
        threshold: Lowest score of a detection that was asked for; None for the release's, without which detections do not compare.
    """
    spacings = zip(*(scans[f"spacing_{axis}_mm"] for axis in "ijk"), strict=True)
    columns = {name: [float(v) for v in scans[name] if v is not None] for name in (SPREAD, BRIGHT, DETECTIONS)}
    voxels = [sides(spacing) for spacing in spacings]
    columns |= {name: [voxel[name] for voxel in voxels] for name in (IN_PLANE, SLICE)}
    columns[BEST_SCORE] = [score or 0.0 for score in scans["best_score"]]
    if threshold is not None:
        columns[DETECTIONS] = []
    compared = {}
    for name in QUANTITIES:
        if name in training and (comparison := compare(training[name], columns[name])):
            compared[name] = comparison
    return {"quantities": compared, "not_compared": [name for name in QUANTITIES if name not in compared]}


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
