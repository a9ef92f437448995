"""Comparison of the findings in two scans of one patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from cmb_models.detection import Detection, DetectionResult
from cmb_models.errors import InputError
from cmb_models.followup.correspondence import BASE_RATE, CHANGES, Change, Fate, Side, correspond, new_probabilities, tolerance_mm
from cmb_models.followup.severity import class_probabilities, severity
from cmb_models.registration import Registration, register
from cmb_models.registration.evidence import failed
from cmb_models.registration.head import Head, find_head
from cmb_models.volume import UNPLACED, Volume, index_from_world, spacing_of, triple

if TYPE_CHECKING:
    from pandas import DataFrame

# Correlation of detail (registration.evidence) from which two scans count as of one head. In simulated pairs of one protocol
# (research/results/followup.json) .92 and up for one head, .57 and below for two; .88 and up for one head by two protocols.
SAME_HEAD = 0.7
REGISTRATION_MM = 0.3  # root mean square error at lesions in simulated pairs, when both directions agree
MAX_CANDIDATES = 60  # candidates.max_per_scan of releases, unless a site changed it
EDGE_MM = 2.0  # nearer to the edge of a field of view a lesion is not shown whole
TABLE = (
    *("change", "baseline_x_mm", "baseline_y_mm", "baseline_z_mm", "followup_x_mm", "followup_y_mm", "followup_z_mm"),
    *("distance_mm", "baseline_score", "followup_score", "diameter_mm", "is_baseline_found", "is_followup_found"),
)


@dataclass(frozen=True)
class Lesion:
    """One lesion in two scans.

    Attributes:
        change: new; uncertain-new (the baseline has a candidate below the threshold there); persisting; uncertain-gone (the
            follow-up has such a candidate); not-seen-again; outside-baseline or outside-followup (that scan does not show the
            place).
        baseline_mm: Place (x, y, z) in the baseline's RAS mm: of its candidate, else the follow-up's place, mapped.
        followup_mm: The same in the follow-up's frame.
        baseline: The baseline's candidate; None without one.
        followup: The follow-up's candidate; None without one.
        distance_mm: Between the two candidates after registration; NaN without both.
    """

    change: Change
    baseline_mm: tuple[float, float, float]
    followup_mm: tuple[float, float, float]
    baseline: Detection | None
    followup: Detection | None
    distance_mm: float

    @property
    def diameter_mm(self) -> float:
        """Of the follow-up's candidate, else of the baseline's."""
        one = self.followup or self.baseline
        assert one is not None
        return one.diameter_mm


@dataclass(frozen=True)
class Comparison:
    """The lesions of two scans of one patient.

    Attributes:
        lesions: In the order new, uncertain-new, persisting, uncertain-gone, not-seen-again, outside; () without detections.
        threshold: On the calibrated score, of both scans.
        tolerance_mm: How far apart two detections of one lesion may lie.
        registration: Of the baseline (moving) to the follow-up (fixed).
        probabilities: Of each class of severity, by independent candidates.
        expected_new: Expected number of new microbleeds among the follow-up's detections.
        baseline: The baseline's result.
        followup: The follow-up's.
        is_cut: Whether the baseline's and the follow-up's list of candidates may lack some that matter (`is_cut`).
    """

    lesions: tuple[Lesion, ...]
    threshold: float
    tolerance_mm: float
    registration: Registration
    probabilities: dict[str, float]
    expected_new: float
    baseline: DetectionResult
    followup: DetectionResult
    is_cut: tuple[bool, bool] = (False, False)

    def of(self, change: Change) -> tuple[Lesion, ...]:
        """The lesions of a class, best first; () if there are none."""
        return tuple(lesion for lesion in self.lesions if lesion.change == change)

    @property
    def counts(self) -> dict[str, int]:
        """Number of lesions by class, all classes."""
        return {change: len(self.of(change)) for change in CHANGES}

    @property
    def severity(self) -> str:
        """The class of ARIA-H by the number of new ones: none, mild, moderate or severe."""
        return severity(len(self.of("new")))

    @property
    def severity_with_uncertain(self) -> str:
        """The class if the uncertain ones are new too."""
        return severity(len(self.of("new")) + len(self.of("uncertain-new")))

    def to_dataframe(self) -> DataFrame:
        """One row per lesion with the columns of TABLE; no rows if there are no detections. Needs pandas."""
        from pandas import DataFrame

        return DataFrame([lesion_row(lesion, self.threshold) for lesion in self.lesions], columns=list(TABLE))


def lesion_row(lesion: Lesion, threshold: float) -> tuple:
    """The values of TABLE for a lesion; a score is None without a candidate."""
    scores = [None if d is None else d.score for d in (lesion.baseline, lesion.followup)]
    found = [s is not None and s >= threshold for s in scores]
    return (lesion.change, *lesion.baseline_mm, *lesion.followup_mm, lesion.distance_mm, *scores, lesion.diameter_mm, *found)


def compare_results(
    baseline: DetectionResult,
    followup: DetectionResult,
    threshold: float | None = None,
    case: str = "comparison",
    max_candidates: int = MAX_CANDIDATES,
) -> Comparison:
    """Compare two results of one release, each with its scan.

    Args:
        baseline: Of the earlier scan, with its volume.
        followup: Of the later one, with its volume.
        threshold: Lowest score of a detection, in [0, 1]; the release's if None.
        case: Name of the pair in error messages.
        max_candidates: Of a scan, by the release's settings.

    Raises:
        InputError: results-incomplete without a volume; scan-space for one that is not in scanner space; results-mixed for results
            of two releases; registration-failed, also if the two heads are not alike in detail.
    """
    volumes = [_volume_of(result, name, case) for result, name in ((baseline, "baseline"), (followup, "follow-up"))]
    if baseline.manifest_sha256 != followup.manifest_sha256:
        got = f"releases {baseline.release} and {followup.release}"
        raise InputError("results-mixed", case, "both results of one release", got, "detect in both scans with the same release")
    registration = register(volumes[1], volumes[0], case=case)
    if registration.detail < SAME_HEAD:
        expected = f"two scans of one head (a correlation of their detail of at least {SAME_HEAD:g})"
        raise failed(case, expected, f"{registration.detail:.2f}")
    heads = [find_head(v) for v in volumes]
    seen_baseline = shows(heads[1], volumes[1], registration.to_fixed(places_mm(baseline)))
    seen_followup = shows(heads[0], volumes[0], registration.to_moving(places_mm(followup)))
    cut = (is_cut(baseline, max_candidates), is_cut(followup, max_candidates))
    return compare_registered(baseline, followup, registration, seen_baseline, seen_followup, threshold, cut)


def compare_registered(
    baseline: DetectionResult,
    followup: DetectionResult,
    registration: Registration,
    seen_baseline: np.ndarray,
    seen_followup: np.ndarray,
    threshold: float | None = None,
    cut: tuple[bool, bool] = (False, False),
) -> Comparison:
    """Compare two results whose scans are registered.

    Args:
        baseline: Of the earlier scan.
        followup: Of the later one.
        registration: Of the baseline (moving) to the follow-up (fixed).
        seen_baseline: (N,) bool, whether the follow-up shows the places of the baseline's candidates.
        seen_followup: (M,) bool, whether the baseline shows those of the follow-up's.
        threshold: Lowest score of a detection, in [0, 1]; the release's if None.
        cut: Whether the baseline's and the follow-up's list is cut, as `is_cut` says.
    """
    threshold = followup.threshold if threshold is None else threshold
    tolerance = tolerance_mm(float(np.hypot(REGISTRATION_MM, registration.inconsistency_mm)))
    sides = (
        Side(baseline.candidates, registration.to_fixed(places_mm(baseline)), threshold, seen_baseline, cut[0]),
        Side(followup.candidates, places_mm(followup), threshold, seen_followup, cut[1]),
    )
    fates = correspond(*sides, tolerance)
    new = new_probabilities(fates, *sides)
    return Comparison(
        lesions=tuple(_lesion(fate, baseline, followup, registration) for fate in fates),
        threshold=threshold,
        tolerance_mm=tolerance,
        registration=registration,
        probabilities=class_probabilities(new),
        expected_new=float(new.sum()),
        baseline=baseline,
        followup=followup,
        is_cut=cut,
    )


def is_cut(result: DetectionResult, max_candidates: int = MAX_CANDIDATES) -> bool:
    """Whether a list of candidates is full and its last one still speaks for a lesion: others were then left out."""
    scores = [c.score for c in result.candidates]
    return len(scores) >= max_candidates and min(scores) >= BASE_RATE


def places_mm(result: DetectionResult) -> np.ndarray:
    """Places (N, 3) of all candidates in RAS mm; N may be 0."""
    return np.array([c.position_mm for c in result.candidates]).reshape(-1, 3)


def in_view(affine: np.ndarray, shape: Sequence[int], world_mm: np.ndarray) -> np.ndarray:
    """Which places (N, 3) in RAS mm lie in a field of view, at least EDGE_MM from its faces: (N,) bool.

    affine: (4, 4) of an image of shape (I, J, K).
    """
    index = index_from_world(world_mm, affine)
    margin = EDGE_MM / np.asarray(spacing_of(affine)) - 0.5
    return np.asarray(np.all((index >= margin) & (index <= np.asarray(shape) - 1 - margin), axis=1))


def shows(head: Head, volume: Volume, world_mm: np.ndarray) -> np.ndarray:
    """Whether a scan shows places (N, 3) in its RAS mm: (N,) bool.

    In its field of view, and at most EDGE_MM outside of the head that it shows, since a scan may be padded or without its skull.
    """
    away_mm = ndimage.distance_transform_edt(~head.mask, sampling=head.image.spacing_mm)
    nearest = np.rint(index_from_world(world_mm, head.image.affine)).astype(int).clip(0, np.array(head.mask.shape) - 1)
    return np.asarray(in_view(volume.affine, volume.data.shape, world_mm) & (away_mm[tuple(nearest.T)] <= EDGE_MM))


def _volume_of(result: DetectionResult, name: str, case: str) -> Volume:
    if result.volume is None:
        raise InputError("results-incomplete", f"{case} ({name})", "a result with its scan", "one without", "detect in it again")
    if not result.volume.in_scanner:
        remedy = "convert it from DICOM again, so that its header has a qform or sform"
        raise InputError("scan-space", f"{case} ({name})", "a scan in scanner space", UNPLACED, remedy)
    return result.volume


def _lesion(fate: Fate, baseline: DetectionResult, followup: DetectionResult, registration: Registration) -> Lesion:
    before = baseline.candidates[fate.baseline] if fate.baseline >= 0 else None
    after = followup.candidates[fate.followup] if fate.followup >= 0 else None
    if before is not None:
        baseline_mm = np.array(before.position_mm)
        followup_mm = registration.to_fixed(baseline_mm)[0] if after is None else np.array(after.position_mm)
    else:
        assert after is not None, "a lesion has a candidate in one scan at least"
        followup_mm = np.array(after.position_mm)
        baseline_mm = registration.to_moving(followup_mm)[0]
    places = triple(baseline_mm.tolist()), triple(followup_mm.tolist())
    return Lesion(fate.change, *places, before, after, fate.distance_mm)
