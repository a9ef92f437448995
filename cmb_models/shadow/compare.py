"""Shadow mode: the challenger runs on the same scans after production, and one line per scan records the differences.

Production's results are never affected. Scans are recorded by name, so the file is as private as detections.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.client.log_lines import LineLog
from cmb_models.detection import Detection, DetectionResult
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.statistics.disagreement import Disagreement, disagreements
from cmb_models.evaluation.statistics.paired import Pair
from cmb_models.io.annotations import Annotation
from cmb_models.io.scan_id import scan_sha256
from cmb_models.volume import Volume

TOLERANCE_MM = 3.0  # the matching rule: within max(3 mm, radius)
WIDEST_MM = 99.0  # limit of annotations
Detect = Callable[..., DetectionResult]  # a detector's detect(scan, phase, *, case)


def shadow_log(file: Path) -> LineLog:
    """The log of comparisons, never rotated, since reports cover all entries."""
    return LineLog(file, max_bytes=2**62, max_age_s=math.inf)


@dataclass(frozen=True)
class Answered:
    """A scan and production's result for it. scan: its name in the results."""

    scan: str
    volume: Volume
    answer: DetectionResult
    phase: Volume | None = None


def compare_challenger(scan: Answered, challenger: Detect) -> dict[str, Any]:
    """Run the challenger and return the log entry; errors are recorded in the entry, never raised."""
    try:
        comparison = compared(scan.answer, challenger(scan.volume, scan.phase, case=scan.scan))
    except Exception as error:
        return uncompared(scan, "failed", str(error))
    return _head(scan) | comparison


def uncompared(scan: Answered, outcome: str, reason: str) -> dict[str, Any]:
    """The entry of a scan that was not compared. outcome: "failed", or "dropped" if the challenger was not run."""
    return _head(scan) | {"outcome": outcome, "reason": reason, "production": _side(scan.answer)}


def _head(scan: Answered) -> dict[str, Any]:
    return {"scan": scan.scan, "input_sha256": scan_sha256(scan.volume)}


def compared(production: DetectionResult, challenger: DetectionResult, tolerance_mm: float = TOLERANCE_MM) -> dict[str, Any]:
    """Compare two releases on one scan, each at its own threshold.

    Production's findings serve as annotations, so that the usual matching (matching.py) pairs them. `both` holds the pairs,
    `only_production` and `only_challenger` findings of one release, with the other's score at that position, None without a
    candidate. Scores are [production's, challenger's]. Without findings all three are empty.
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
