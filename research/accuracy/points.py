"""Finished trainings on disk: one file each, named by a hash of all that its findings depend on, so that none is repeated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_models.dataset.layout import find_scans
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.files import read_json, write_json
from research.accuracy.methods import CODE, Outcome, Task
from research.accuracy.scans import Scans, code_hash, short_hash

# The parts of params.yaml that no training here reads; changing them must not repeat a night's work.
UNREAD = {"ingest", "tune_unet", "tune_cnn", "cross_validate", "calibrate", "export", "gate"}


@dataclass(frozen=True)
class Point:
    """One method trained on one draw. scans: its findings in every test scan. workers: trainings side by side while timed."""

    name: str
    size: int
    draw: int
    seconds: float
    workers: int
    steps: int
    chosen: dict
    scans: list[ScoredScan]


def path_of(cache: Path, task: Task, scans: Scans) -> Path:
    """Where a task's points are kept."""
    recipe = task.params.model_dump(mode="json", exclude=UNREAD)
    about = [scans.name, sorted(task.split["folds"].items()), recipe, code_hash(CODE[task.method])]
    if task.method == "nnunet":
        about.append(task.nnunet.memory_gb)
    return cache / "points" / f"{task.method}-{task.size}-{task.draw}-{short_hash(about)}.json"


def save(path: Path, task: Task, outcomes: list[Outcome], seconds: float, workers: int) -> None:
    """Write all points of a finished task at once."""
    rows = []
    for outcome in outcomes:
        found = {s.key: {"centres_mm": s.centres_mm.tolist(), "scores": s.scores.tolist()} for s in outcome.scans}
        rows.append({"name": outcome.name, "steps": outcome.steps, "chosen": outcome.chosen, "found": found})
    write_json(path, {"size": task.size, "draw": task.draw, "seconds": seconds, "workers": workers, "outcomes": rows})


def load(path: Path, test: Path) -> list[Point]:
    """The points of a task's file with the annotations of the test dataset; [] if there is no file."""
    if not path.is_file():
        return []
    about, truth = read_json(path), find_scans(test)
    return [
        Point(
            row["name"],
            about["size"],
            about["draw"],
            about["seconds"],
            about["workers"],
            row["steps"],
            row["chosen"],
            [_scan(s, row["found"][s.key]) for s in truth],
        )
        for row in about["outcomes"]
    ]


def _scan(scan, found: dict) -> ScoredScan:
    centres = np.array(found["centres_mm"]).reshape(-1, 3)
    return ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, np.array(found["scores"], dtype=np.float64))
