"""Which detection found which lesion: one to one, by centre distance in mm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation

FAR = 1e6  # mm; a pair that may not match costs more than all that may together


@dataclass(frozen=True)
class ScoredScan:
    """One scan's truth and what was detected in it. centres_mm: (N, 3) RAS. scores: (N,) in [0, 1]. N may be 0.

    stage1, stage2: (N,), each stage's own score, None where it gave none. voxel_mm: of the stored scan, ascending, None where
    nobody asks for it.
    """

    key: str
    subject: str
    annotations: tuple[Annotation, ...]
    centres_mm: np.ndarray
    scores: np.ndarray
    stage1: np.ndarray | None = None
    stage2: np.ndarray | None = None
    voxel_mm: tuple[float, float, float] | None = None

    @property
    def cmbs(self) -> list[Annotation]:
        return [a for a in self.annotations if a.is_cmb]

    @property
    def dataset(self) -> str:
        """The part of the subject's name before its own, sub-* (dataset/layout); "" where there is none."""
        return self.subject.rpartition("_sub-")[0]

    @property
    def slice_mm(self) -> float | None:
        """Slice thickness: the longest side of a voxel."""
        return self.voxel_mm[-1] if self.voxel_mm else None


def voxel_sides_mm(spacing_mm: Iterable[float]) -> tuple[float, float, float]:
    """Sides of a voxel in mm, ascending, to 0.1 um: the last is the slice thickness however the axes are stored."""
    a, b, c = sorted(round(float(s), 4) for s in spacing_mm)
    return a, b, c


def reach_mm(lesion: Annotation, tolerance_mm: float) -> float:
    """How far from a lesion's centre a detection of it may lie."""
    return max(tolerance_mm, lesion.diameter_mm / 2)


@dataclass(frozen=True)
class Match:
    """lesion_of: (N,) number of the CMB a detection found, -1 for none. ignored: (N,) bool, at a lesion marked `possible`."""

    lesion_of: np.ndarray
    ignored: np.ndarray

    @property
    def hits(self) -> int:
        return int((self.lesion_of >= 0).sum())

    @property
    def false(self) -> np.ndarray:
        """Which detections are false positives, (N,) bool."""
        false: np.ndarray = (self.lesion_of < 0) & ~self.ignored
        return false

    @property
    def false_positives(self) -> int:
        return int(self.false.sum())


def match(scan: ScoredScan, threshold: float, tolerance_mm: float) -> Match:
    """Match the detections that reach `threshold` to CMBs (Hungarian: most pairs, then least distance).

    A pair is allowed within max(tolerance_mm, lesion radius). A second detection of the same CMB is a false positive;
    one at a `possible` lesion is neither hit nor false positive. Detections below the threshold are ignored.
    """
    lesion_of = np.full(len(scan.scores), -1)
    ignored = scan.scores < threshold
    _assign(scan, scan.cmbs, tolerance_mm, ignored, lesion_of)
    possible_of = np.full(len(scan.scores), -1)
    possible = [a for a in scan.annotations if a.label == "possible"]
    _assign(scan, possible, tolerance_mm, ignored | (lesion_of >= 0), possible_of)
    return Match(lesion_of, ignored | (possible_of >= 0))


def _assign(scan: ScoredScan, lesions: list[Annotation], tolerance_mm: float, skip: np.ndarray, lesion_of: np.ndarray) -> None:
    """Fill lesion_of (N,) in place for the detections not in `skip` (N,)."""
    rows = np.flatnonzero(~skip)
    if not len(rows) or not lesions:
        return
    centres = np.array([a.centre_mm for a in lesions])
    reach = np.array([reach_mm(a, tolerance_mm) for a in lesions])
    distance = np.linalg.norm(scan.centres_mm[rows][:, None] - centres[None], axis=2)
    cost = np.where(distance <= reach, distance, FAR)
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if cost[row, column] < FAR:
            lesion_of[rows[row]] = column


def judged(scan: ScoredScan, tolerance_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M,) of a scan's candidates and whether each is a hit (M,), all counting, those at `possible` places left out."""
    found = match(scan, 0.0, tolerance_mm)
    return scan.scores[~found.ignored], found.lesion_of[~found.ignored] >= 0


def all_judged(scans: Iterable[ScoredScan], tolerance_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """`judged` of all scans together, (M,) each. Raises InputError when none has a candidate that counts."""
    columns = [np.concatenate(column) for column in zip(*(judged(s, tolerance_mm) for s in scans), strict=True)]
    if not columns or not len(columns[0]):
        remedy = "lower detect_candidates.candidates.floor or train longer"
        raise InputError("candidates-missing", "scores out of fold", "scored candidates", "none", remedy)
    return columns[0], columns[1]
