"""A challenger in production's shadow: the same scans, after the answer, and a line a scan of what it would have said otherwise.

Nothing here can alter or fail an answer. Scans go by the name they are given under, so the file is as private as detections.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.client.log_lines import LineLog
from cmb_models.client.scan_id import scan_sha256
from cmb_models.detection import Detection, DetectionResult
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.statistics.disagreement import Disagreement, disagreements
from cmb_models.evaluation.statistics.paired import Pair
from cmb_models.io.annotations import Annotation
from cmb_models.volume import Volume

TOLERANCE_MM = 3.0  # as everywhere: one place within max(3 mm, its radius)
WIDEST_MM = 99.0  # a finding that covers all of the head is still a place
Detect = Callable[..., DetectionResult]  # a detector's detect(scan, phase, *, case)


def shadow_log(file: Path) -> LineLog:
    """The file of comparisons: never turned over, since a report over time needs the oldest too."""
    return LineLog(file, most_bytes=2**62, most_age_s=math.inf)


@dataclass(frozen=True)
class Answered:
    """A scan and production's answer to it. scan: the name results go by."""

    scan: str
    volume: Volume
    answer: DetectionResult
    phase: Volume | None = None


def observe(asked: Answered, challenger: Detect) -> dict[str, Any]:
    """Ask the challenger too: the line to write. Whatever goes wrong is in the line, nothing is raised."""
    try:
        told = compared(asked.answer, challenger(asked.volume, asked.phase, case=asked.scan))
    except Exception as error:
        return noted(asked, "failed", str(error))
    return _head(asked) | told


def noted(asked: Answered, outcome: str, reason: str) -> dict[str, Any]:
    """The line of a scan that was not compared. outcome: "failed" or "dropped", for what was never asked."""
    return _head(asked) | {"outcome": outcome, "reason": reason, "production": _side(asked.answer)}


def _head(asked: Answered) -> dict[str, Any]:
    return {"scan": asked.scan, "input_sha256": scan_sha256(asked.volume)}


def compared(production: DetectionResult, challenger: DetectionResult, tolerance_mm: float = TOLERANCE_MM) -> dict[str, Any]:
    """Where two releases agree on one scan, each at its own threshold.

    Production's findings take the part of marks, so places are paired as detections and marks are everywhere (matching.py). `both`
    holds the pairs, `only_production` and `only_challenger` what one alone reports, with the score that the other gave the place,
    None where it had no candidate. Scores are [production's, challenger's]. Without findings on either side all three are empty.
    """
    marks = tuple(_mark(d) for d in production.detections)
    first, second = _scored(production, marks), _scored(challenger, marks)
    found = match(second, challenger.threshold, tolerance_mm).lesion_of
    pair = Pair((first,), (second,), (production.threshold, challenger.threshold), ())
    differing = disagreements(pair, tolerance_mm)
    return {
        "outcome": "compared",
        "production": _side(production),
        "challenger": _side(challenger),
        "both": [_both(production.detections[found[n]], challenger.candidates[n]) for n in np.flatnonzero(found >= 0)],
        "only_production": [_alone(d) for d in differing if d.by == 1],
        "only_challenger": [_alone(d) for d in differing if d.by == 2],
    }


def _mark(d: Detection) -> Annotation:
    diameter_mm = min(max(d.diameter_mm, 1e-3), WIDEST_MM)
    return Annotation("scan", "", *d.position_mm, diameter_mm=diameter_mm, label="cmb", rater="production")


def _scored(answer: DetectionResult, marks: tuple[Annotation, ...]) -> ScoredScan:
    rows = answer.candidates
    centres = np.array([d.position_mm for d in rows], dtype=np.float64).reshape(-1, 3)
    scores, stage1, stage2 = (np.array([getattr(d, s) for d in rows]) for s in ("score", "stage1_score", "stage2_score"))
    return ScoredScan("scan", "scan", marks, centres, scores, stage1, stage2)


def _side(answer: DetectionResult) -> dict[str, Any]:
    identity = {"release": answer.release, "manifest_sha256": answer.manifest_sha256, "threshold": answer.threshold}
    return identity | {"candidates": len(answer.candidates), "detections": len(answer.detections)}


def _both(a: Detection, b: Detection) -> dict[str, Any]:
    return {
        "world_mm": [round(v, 2) for v in a.position_mm],
        "apart_mm": round(math.dist(a.position_mm, b.position_mm), 2),
        "scores": [round(a.score, 6), round(b.score, 6)],
    }


def _alone(d: Disagreement) -> dict[str, Any]:
    scores = [None if f is None else round(f.score, 6) for f in (d.first, d.second)]
    return {"world_mm": [round(v, 2) for v in d.world_mm], "scores": scores}
