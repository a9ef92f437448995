"""Two releases on the same scans: how far apart their figures are, and how sure that is.

Both are counted in the same resamples of subjects, so that what makes a scan easy or hard for both does not blur the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cmb_models.evaluation.froc import froc, froc_draws
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import count_intervals, counts_of
from cmb_models.evaluation.statistics.bootstrap import no_narrower, percentiles, ratio, wilson

Interval = list[float] | None


@dataclass(frozen=True)
class Judged:
    """One release's evaluation. threshold: its own. sha256: of each scan's file by its key; scans without are not comparable."""

    scans: tuple[ScoredScan, ...]
    threshold: float
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Pair:
    """The S scans that two releases have in common, in one order, under the second one's marks and names.

    remarked: keys of those whose marks the first release was evaluated with were others.
    """

    first: tuple[ScoredScan, ...]
    second: tuple[ScoredScan, ...]
    thresholds: tuple[float, float]
    remarked: tuple[str, ...]

    @property
    def subjects(self) -> list[str]:
        return [s.subject for s in self.second]


@dataclass(frozen=True)
class Difference:
    """A figure of both and second - first, each with its 95 % interval over subjects; None where it is undefined."""

    name: str
    first: float | None
    second: float | None
    first_interval: Interval
    second_interval: Interval
    difference: float | None
    interval: Interval


def pair_up(first: Judged, second: Judged) -> Pair:
    """The scans both were evaluated on, identified by their files' content; names may differ. Empty when there are none.

    The first one's findings are held against the second one's marks: a mark that was corrected since counts for both.
    """
    by_content = {first.sha256[s.key]: s for s in first.scans if s.key in first.sha256}
    both = [(by_content[sha256], s) for s in second.scans if (sha256 := second.sha256.get(s.key)) in by_content]
    as_second = [replace(a, key=b.key, subject=b.subject, annotations=b.annotations) for a, b in both]
    remarked = tuple(b.key for a, b in both if _marks(a) != _marks(b))
    return Pair(tuple(as_second), tuple(b for _, b in both), (first.threshold, second.threshold), remarked)


def _marks(scan: ScoredScan) -> list[tuple[float | str, ...]]:
    return sorted((*a.centre_mm, a.diameter_mm, a.label) for a in scan.annotations if a.is_cmb or a.label == "possible")


def differences(pair: Pair, tolerance_mm: float, draws: np.ndarray) -> dict[str, Difference]:
    """Sensitivity, fp_per_scan, precision and fp_per_cmb_free_scan at each one's own threshold, and second - first.

    draws: (B, S), bootstrap.subject_draws of pair.subjects. The interval of a difference holds the middle 95 % of its resamples, so
    that two releases with the same answers differ by 0, [0, 0]. A figure is None where nothing defines it, as are all for no scans.
    """
    a, b = (_counted(s, t, tolerance_mm, draws) for s, t in zip((pair.first, pair.second), pair.thresholds, strict=True))
    return {name: _difference(name, a[name], b[name]) for name in a}


def difference_at_fp(pair: Pair, tolerance_mm: float, fp_per_scan: float, draws: np.ndarray) -> Difference:
    """The same of the sensitivity read off each one's curve at a rate of false positives per scan, whatever threshold it takes."""
    a, b = (_read_off(scans, tolerance_mm, fp_per_scan, draws.astype(float)) for scans in (pair.first, pair.second))
    return _difference("sensitivity_at_fp", a, b)


@dataclass(frozen=True)
class _Figure:
    """value and its own interval; draws: the figure in each resample, (B,)."""

    value: float | None
    interval: Interval
    draws: np.ndarray


def _counted(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, draws: np.ndarray) -> dict[str, _Figure]:
    counts = counts_of(scans, threshold, tolerance_mm)
    hits, false, lesions, free = counts.T
    intervals = count_intervals(counts, draws)
    parts = {
        "sensitivity": (hits, lesions),
        "fp_per_scan": (false, np.ones(len(scans))),
        "precision": (hits, hits + false),
        "fp_per_cmb_free_scan": (false * free, free),
    }
    return {
        name: _Figure(float(part.sum() / whole.sum()), intervals[name], ratio(part, whole, draws))
        if whole.sum()
        else _Figure(None, None, np.full(len(draws), np.nan))
        for name, (part, whole) in parts.items()
    }


def _read_off(scans: Sequence[ScoredScan], tolerance_mm: float, fp_per_scan: float, draws: np.ndarray) -> _Figure:
    lesions = sum(len(s.cmbs) for s in scans)
    if not lesions:
        return _Figure(None, None, np.full(len(draws), np.nan))
    value = froc(scans, tolerance_mm).at_fp(fp_per_scan)[0]
    resampled = froc_draws(scans, tolerance_mm, (fp_per_scan,), draws)[:, 0]
    return _Figure(value, no_narrower(resampled, wilson(round(value * lesions), lesions)), resampled)


def _difference(name: str, a: _Figure, b: _Figure) -> Difference:
    difference = None if a.value is None or b.value is None else b.value - a.value
    interval = None if difference is None else percentiles(b.draws - a.draws)
    return Difference(name, a.value, b.value, a.interval, b.interval, difference, interval)
