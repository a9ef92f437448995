"""Where two releases disagree on the same scans: microbleeds that one alone found, false positives that one alone raised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from cmb_models.evaluation.matching import FAR, Match, ScoredScan, match, reach_mm
from cmb_models.evaluation.statistics.paired import Pair
from cmb_models.io.annotations import Annotation


@dataclass(frozen=True)
class Finding:
    """A release's candidate at a place; a stage's own score is None where it gave none."""

    score: float
    stage1: float | None
    stage2: float | None


@dataclass(frozen=True)
class Disagreement:
    """A place where one release alone was right or wrong. kind: "hit" or "false_positive"; by: 1 or 2, the one that reported it.

    world_mm: RAS, of the mark, or of the false positive. about: the mark there, None where nothing is marked. first, second: each
    release's candidate at the place, None without any.
    """

    scan: str
    kind: str
    by: int
    world_mm: tuple[float, float, float]
    about: Annotation | None
    first: Finding | None
    second: Finding | None


def disagreements(pair: Pair, tolerance_mm: float) -> list[Disagreement]:
    """All places on which the two differ at their own thresholds, scan by scan, hits first.

    Two false positives within the tolerance of each other are the same place, one to one. Empty for equal answers.
    """
    found = []
    for first, second in zip(pair.first, pair.second, strict=True):
        sides = [(s, match(s, t, tolerance_mm)) for s, t in zip((first, second), pair.thresholds, strict=True)]
        found += _lesions(sides, tolerance_mm) + _false_positives(sides, tolerance_mm)
    return found


Side = tuple[ScoredScan, Match]


def _lesions(sides: list[Side], tolerance_mm: float) -> list[Disagreement]:
    at_all = [match(scan, 0.0, tolerance_mm) for scan, _ in sides]
    rows = []
    for n, about in enumerate(sides[0][0].cmbs):
        hit = [n in found.lesion_of for _, found in sides]
        if hit[0] == hit[1]:
            continue
        # The finder is described by its detection, the other one by the candidate that would have matched without a threshold.
        here = [
            _finding(scan, np.flatnonzero((found if got else every).lesion_of == n))
            for (scan, found), every, got in zip(sides, at_all, hit, strict=True)
        ]
        rows.append(Disagreement(sides[0][0].key, "hit", 1 + hit.index(True), about.centre_mm, about, *here))
    return rows


def _false_positives(sides: list[Side], tolerance_mm: float) -> list[Disagreement]:
    wrong = [np.flatnonzero(m.false) for _, m in sides]
    places = [scan.centres_mm.reshape(-1, 3) for scan, _ in sides]
    shared = _partners(places[0][wrong[0]], places[1][wrong[1]], tolerance_mm)
    alone = [np.delete(w, s) for w, s in zip(wrong, shared, strict=True)]
    rows = []
    for side in (0, 1):
        for n in alone[side]:
            place = places[side][n]
            own, other = _finding(sides[side][0], np.array([n])), _nearest(sides[1 - side][0], place, tolerance_mm)
            about = _mark_at(sides[side][0], place, tolerance_mm)
            sides_scores = (own, other) if side == 0 else (other, own)
            x, y, z = place.tolist()
            rows.append(Disagreement(sides[0][0].key, "false_positive", 1 + side, (x, y, z), about, *sides_scores))
    return rows


def _partners(a: np.ndarray, b: np.ndarray, tolerance_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a (N, 3) and b (M, 3) that lie within the tolerance of each other, one to one: most pairs, then least distance."""
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    rows, columns = linear_sum_assignment(np.where(distance <= tolerance_mm, distance, FAR))
    near = distance[rows, columns] <= tolerance_mm
    return rows[near], columns[near]


def _finding(scan: ScoredScan, candidates: np.ndarray) -> Finding | None:
    if not len(candidates):
        return None
    n = candidates[0]
    stage1, stage2 = (None if c is None else float(c[n]) for c in (scan.stage1, scan.stage2))
    return Finding(float(scan.scores[n]), stage1, stage2)


def _nearest(scan: ScoredScan, place: np.ndarray, tolerance_mm: float) -> Finding | None:
    away = np.linalg.norm(scan.centres_mm.reshape(-1, 3) - place, axis=1)
    return _finding(scan, np.argsort(away)[:1]) if np.any(away <= tolerance_mm) else None


def _mark_at(scan: ScoredScan, place: np.ndarray, tolerance_mm: float) -> Annotation | None:
    near = [(float(np.linalg.norm(np.subtract(a.centre_mm, place))), n) for n, a in enumerate(scan.annotations)]
    near = [(away, n) for away, n in near if away <= reach_mm(scan.annotations[n], tolerance_mm)]
    return scan.annotations[min(near)[1]] if near else None
