"""The cases the report shows: every miss, every false positive, and the best and the worst of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from cmb_models.detect.candidates import LARGEST_MM, diameter_mm
from cmb_models.figures.views import View
from cmb_models.report import wording
from cmb_models.report.data import Evaluation, ReportData
from cmb_models.volume import triple

EXTREMES = 2  # how many of each: best found, largest missed, most certain false positives


@dataclass(frozen=True)
class Case:
    """A place in a scan. outcome: "hit", "miss" or "false_positive". world_mm: RAS; scores in [0, 1] or None.

    diameter_mm: as marked; for a false positive as measured in the scan, None before `measured`. about: what is known of it.
    """

    scan: str
    outcome: str
    world_mm: tuple[float, float, float]
    diameter_mm: float | None
    score: float | None
    stage1: float | None
    stage2: float | None
    about: str

    @property
    def facts(self) -> str:
        """Scores and size in a line."""
        scores = (("score", self.score), ("stage 1", self.stage1), ("stage 2", self.stage2))
        told = [f"{name} {value:.2f}" for name, value in scores if value is not None] or ["no score"]
        if self.diameter_mm is None:
            return " · ".join(told)
        largest = self.outcome == "false_positive" and self.diameter_mm >= LARGEST_MM  # beyond, measuring stops
        return " · ".join([f"{'≥ ' if largest else ''}{self.diameter_mm:.1f} mm", *told])

    @property
    def place(self) -> str:
        """Scan and RAS mm, as they can be typed into a viewer."""
        return f"{self.scan}, at {', '.join(wording.number(v, digits=0) for v in self.world_mm)} mm"


def misses(evaluation: Evaluation) -> list[Case]:
    """Marked CMBs that were not found, the largest first."""
    return [_lesion(row, "miss") for row in sorted(evaluation.missed, key=lambda row: -float(row["diameter_mm"]))]


def false_positives(evaluation: Evaluation) -> list[Case]:
    """Findings where none is marked, the most certain first."""
    rows = sorted(evaluation.false_positives, key=lambda row: -row["score"])
    return [_case(row, "false_positive", None, wording.kind(row["label"])) for row in rows]


def best(evaluation: Evaluation) -> list[Case]:
    """The microbleeds found with most certainty."""
    return [_lesion(row, "hit") for row in sorted(evaluation.hits, key=lambda row: -row["score"])[:EXTREMES]]


def worst(evaluation: Evaluation) -> list[Case]:
    """The largest misses and the most certain false positives."""
    return misses(evaluation)[:EXTREMES] + false_positives(evaluation)[:EXTREMES]


def reasons(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Where and why marked CMBs were lost, with how many, most first."""
    return Counter(row["rejected"] for row in evaluation.missed).most_common()


def kinds(evaluation: Evaluation) -> list[tuple[str, int]]:
    """What lies at the false positives, with how many, most first."""
    return Counter(wording.kind(row["label"]) for row in evaluation.false_positives).most_common()


def measured(case: Case, view: View) -> Case:
    """A false positive with its size as it looks in the scan; other cases keep the marked one."""
    if case.diameter_mm is not None:
        return case
    index = np.rint(view.voxel(case.world_mm)).astype(int)
    inside = np.clip(index, 0, np.asarray(view.data.shape) - 1)
    return replace(case, diameter_mm=diameter_mm(view.data, inside, tuple(view.spacing_mm)))


def all_cases(material: ReportData) -> list[Case]:
    """Every case of the report, in the order in which pictures are due: what was missed, what was wrong, locked scans first."""
    extremes = [c for e in material.evaluations for c in (*best(e), *worst(e))]
    listed = [c for choose in (misses, false_positives) for e in material.evaluations for c in choose(e)]
    return list(dict.fromkeys([*extremes, *listed]))


def _lesion(row: dict, outcome: str) -> Case:
    region = wording.plain(row["region"])
    return _case(row, outcome, float(row["diameter_mm"]), "; ".join(w for w in (region, row["rejected"]) if w))


def _case(row: dict, outcome: str, diameter: float | None, about: str) -> Case:
    place = triple(float(row[c]) for c in ("x_mm", "y_mm", "z_mm"))
    stage1, stage2 = (float(row[c]) if row[c] else None for c in ("stage1_score", "stage2_score"))
    return Case(row["scan"], outcome, place, diameter, row["score"], stage1, stage2, about)
