"""The cases in the report: every miss, every false positive, and the best and worst cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from cmb_models.detect.candidates import LARGEST_MM, diameter_mm
from cmb_models.figures.views import View
from cmb_models.report import wording
from cmb_models.report.data import Evaluation, ReportData
from cmb_models.volume import triple

EXTREMES = 2  # of each: hits, misses, false positives


@dataclass(frozen=True)
class Case:
    """A position in a scan. outcome: "hit", "miss" or "false_positive". world_mm: RAS; scores in [0, 1] or None.

    diameter_mm: as annotated; for a false positive as measured in the scan, None before `measured`. about: description.
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
        """Size and scores as text."""
        scores = (("score", self.score), ("stage 1", self.stage1), ("stage 2", self.stage2))
        parts = [f"{name} {value:.2f}" for name, value in scores if value is not None] or ["no score"]
        if self.diameter_mm is None:
            return " · ".join(parts)
        largest = self.outcome == "false_positive" and self.diameter_mm >= LARGEST_MM  # the largest measurable diameter
        return " · ".join([f"{'≥ ' if largest else ''}{self.diameter_mm:.1f} mm", *parts])

    @property
    def place(self) -> str:
        """Scan and RAS position in mm, to enter into a viewer."""
        return f"{self.scan}, at {', '.join(wording.number(v, digits=0) for v in self.world_mm)} mm"


def misses(evaluation: Evaluation) -> list[Case]:
    """Annotated microbleeds that were missed, largest first."""
    return [_lesion(row, "miss") for row in sorted(evaluation.missed, key=lambda row: -float(row["diameter_mm"]))]


def false_positives(evaluation: Evaluation) -> list[Case]:
    """False positives, highest score first."""
    rows = sorted(evaluation.false_positives, key=lambda row: -row["score"])
    return [_case(row, "false_positive", None, wording.kind(row["label"])) for row in rows]


def best(evaluation: Evaluation) -> list[Case]:
    """The hits with the highest scores."""
    return [_lesion(row, "hit") for row in sorted(evaluation.hits, key=lambda row: -row["score"])[:EXTREMES]]


def worst(evaluation: Evaluation) -> list[Case]:
    """The largest misses and the false positives with the highest scores."""
    return misses(evaluation)[:EXTREMES] + false_positives(evaluation)[:EXTREMES]


def reasons(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Reasons for misses with their counts, most frequent first."""
    return Counter(row["rejected"] for row in evaluation.missed).most_common()


def kinds(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Kinds of false positives with their counts, most frequent first."""
    return Counter(wording.kind(row["label"]) for row in evaluation.false_positives).most_common()


def measured(case: Case, view: View) -> Case:
    """A false positive with its diameter measured in the scan; other cases are unchanged."""
    if case.diameter_mm is not None:
        return case
    index = np.rint(view.voxel(case.world_mm)).astype(int)
    inside = np.clip(index, 0, np.asarray(view.data.shape) - 1)
    return replace(case, diameter_mm=diameter_mm(view.data, inside, tuple(view.spacing_mm)))


def all_cases(material: ReportData) -> list[Case]:
    """Every case of the report in order of priority for pictures: extremes, misses, false positives, locked scans first."""
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
