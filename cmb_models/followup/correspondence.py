"""Which finding of one scan is which finding of another, and what became of those that have no counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi

from cmb_models.detection import Detection

Change = Literal["new", "uncertain-new", "persisting", "uncertain-gone", "not-seen-again", "outside-baseline", "outside-followup"]
CHANGES: tuple[Change, ...] = (
    *("new", "uncertain-new", "persisting", "uncertain-gone", "not-seen-again"),
    *("outside-baseline", "outside-followup"),
)
# Of all candidates of the calibration scans, how many are microbleeds: 3 of at most 60. Calibrated scores include it.
BASE_RATE = 0.05
ALREADY = 0.5  # probability that a lesion of one scan is in the other, before looking there: neither is favoured
LOCALISATION_MM = 0.9  # root mean square distance of a detection from its lesion's centre, on grids of 1 x 1 x 2 mm
COVERED = 0.997  # of true pairs lie within the tolerance
LEAST_MM, MOST_MM = 3.0, 6.0  # the rule of evaluation (matching.py); beyond, neighbouring lesions are confused
FAR = 1e6  # mm; a pair that may not match costs more than all that may together


@dataclass(frozen=True)
class Side:
    """The candidates of one scan.

    Attributes:
        candidates: All of them, best first.
        places_mm: Their centres (N, 3) in the follow-up's frame.
        threshold: Scores from here on are detections.
        seen: (N,) bool, whether the other scan shows their places.
        is_cut: Whether the list may lack candidates that matter, so that no candidate at a place is no evidence.
    """

    candidates: Sequence[Detection]
    places_mm: np.ndarray
    threshold: float
    seen: np.ndarray
    is_cut: bool = False

    @property
    def found(self) -> np.ndarray:
        """Which are detections, (N,) bool."""
        return np.array([c.score >= self.threshold for c in self.candidates], dtype=bool)


@dataclass(frozen=True)
class Fate:
    """What became of one lesion.

    Attributes:
        change: Its class.
        baseline: Number of its candidate in the baseline, -1 for none.
        followup: Number of its candidate in the follow-up, -1 for none.
        distance_mm: Between the two; NaN without a pair.
    """

    change: Change
    baseline: int
    followup: int
    distance_mm: float


def tolerance_mm(registration_mm: float, baseline_mm: float = LOCALISATION_MM, followup_mm: float = LOCALISATION_MM) -> float:
    """How far apart two detections of one lesion may lie.

    The three errors, root mean squares of 3D distances, are taken as independent and normal in each direction, so that the distance
    of a true pair follows the Maxwell distribution; COVERED of it lie within the tolerance, which is kept in LEAST_MM to MOST_MM.

    Args:
        registration_mm: Error of the registration.
        baseline_mm: Error of a detection's place in the baseline.
        followup_mm: The same of the follow-up.
    """
    total = float(np.sqrt(registration_mm**2 + baseline_mm**2 + followup_mm**2))
    return float(np.clip(total / np.sqrt(3) * chi.ppf(COVERED, 3), LEAST_MM, MOST_MM))


def there(score: float) -> float:
    """Probability that a lesion of one scan is in the other, by the candidate at its place there.

    Args:
        score: The candidate's calibrated score in [0, 1]; 0 for none.

    Returns:
        By Bayes' rule with the score's likelihood ratio, odds(score) / odds(BASE_RATE), and ALREADY as the prior: 0 for no
        candidate, ALREADY at BASE_RATE, 1 at a score of 1.
    """
    ratio = score * (1 - BASE_RATE) * ALREADY
    return float(ratio / (ratio + (1 - score) * BASE_RATE * (1 - ALREADY)))


def correspond(baseline: Side, followup: Side, tolerance: float) -> list[Fate]:
    """Pair the two scans' findings and class them.

    One to one, most pairs, then least total distance (Hungarian): first detections with detections, then the rest of them with the
    other scan's candidates below the threshold that speak for a lesion: whose `there` is at least one half. A pair may be as far
    apart as the tolerance, or the radius of the larger of its two. A detection without a counterpart is uncertain, too, where the
    other scan's list is cut.

    Args:
        baseline: Candidates of the baseline.
        followup: Candidates of the follow-up.
        tolerance: In mm.

    Returns:
        One per lesion that is a detection in at least one scan, in the order of CHANGES, then best first; [] without detections.
    """
    apart = _distances(baseline, followup, tolerance)
    pairs = _assigned(apart, baseline.found, followup.found)
    alone_baseline = _without(baseline.found, [b for b, _ in pairs])
    alone_followup = _without(followup.found, [f for _, f in pairs])
    uncertain_new = _assigned(apart, _notable(baseline), alone_followup)
    uncertain_gone = _assigned(apart, alone_baseline, _notable(followup))
    fates = [Fate("persisting", b, f, float(apart[b, f])) for b, f in pairs]
    fates += [Fate("uncertain-new", b, f, float(apart[b, f])) for b, f in uncertain_new]
    fates += [Fate("uncertain-gone", b, f, float(apart[b, f])) for b, f in uncertain_gone]
    for f in np.flatnonzero(_without(alone_followup, [f for _, f in uncertain_new])):
        new: Change = "uncertain-new" if baseline.is_cut else "new"
        fates.append(Fate(new if followup.seen[f] else "outside-baseline", -1, int(f), np.nan))
    for b in np.flatnonzero(_without(alone_baseline, [b for b, _ in uncertain_gone])):
        gone: Change = "uncertain-gone" if followup.is_cut else "not-seen-again"
        fates.append(Fate(gone if baseline.seen[b] else "outside-followup", int(b), -1, np.nan))
    return sorted(fates, key=lambda fate: (CHANGES.index(fate.change), fate.followup, fate.baseline))


def new_probabilities(fates: Sequence[Fate], baseline: Side, followup: Side) -> np.ndarray:
    """Probability (N,) that each of the follow-up's detections is a microbleed and new, in [0, 1]; N may be 0.

    The detection's score times the probability that it was not `there` in the baseline, by the candidate that it is paired with.
    Detections whose place the baseline does not show are left out, and so are candidates below the threshold.
    """
    unknown = ALREADY if baseline.is_cut else 0.0
    found = []
    for fate in fates:
        if fate.followup >= 0 and followup.found[fate.followup] and fate.change != "outside-baseline":
            before = there(baseline.candidates[fate.baseline].score) if fate.baseline >= 0 else unknown
            found.append(followup.candidates[fate.followup].score * (1 - before))
    return np.array(found)


def _distances(baseline: Side, followup: Side, tolerance: float) -> np.ndarray:
    """Distance (N, M) in mm of the candidates that may be one lesion, FAR elsewhere."""
    apart = np.linalg.norm(baseline.places_mm[:, None] - followup.places_mm[None], axis=2)
    radii = [np.array([c.diameter_mm / 2 for c in side.candidates]) for side in (baseline, followup)]
    reach = np.maximum(tolerance, np.maximum(radii[0][:, None], radii[1][None]))
    return np.where(apart <= np.minimum(reach, MOST_MM), apart, FAR)


def _assigned(apart: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of the given rows (N,) bool and columns (M,) bool of distances (N, M)."""
    these, those = np.flatnonzero(rows), np.flatnonzero(columns)
    cost = apart[np.ix_(these, those)]
    return [(int(these[i]), int(those[j])) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < FAR]


def _without(these: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    left = these.copy()
    left[list(numbers)] = False
    return left


def _notable(side: Side) -> np.ndarray:
    """Candidates below the threshold that make it as likely as not that a lesion is there, (N,) bool."""
    likely = np.array([there(c.score) >= 0.5 for c in side.candidates], dtype=bool)
    return np.asarray(likely & ~side.found)
