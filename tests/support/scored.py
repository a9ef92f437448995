"""Scans with marks and findings made by hand, and a bundle folder with their saved rows, for tests of gate and comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_models.config.params import Fusion
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import metrics_at
from cmb_models.evaluation.rows import write_rows
from cmb_models.files import read_json, write_json
from cmb_models.io.annotations import Annotation
from cmb_models.release.bundle import write_manifest

TOLERANCE_MM = 3.0


def scored(key: str, found: Sequence[float], false: Sequence[float] = (), diameter_mm: float = 4.0) -> ScoredScan:
    """A scan `<dataset>_sub-<n>[_ses-<m>]` with a microbleed every 20 mm along x, each with a candidate of a score in `found`,
    and candidates of the scores in `false` every 20 mm along x at y = 50 mm, where nothing is marked."""
    subject = key.partition("_ses-")[0]
    session = key.removeprefix(subject).lstrip("_")
    own = subject.partition("_")[2]
    marks = tuple(Annotation(own, session, 20.0 * n, 0.0, 0.0, diameter_mm, "cmb", "r", "lobar") for n in range(len(found)))
    places = [(20.0 * n, 0.0, 0.0) for n in range(len(found))] + [(20.0 * n, 50.0, 0.0) for n in range(len(false))]
    scores = np.array([*found, *false], dtype=float)
    return ScoredScan(key, subject, marks, np.array(places).reshape(-1, 3), scores, scores, scores, (0.9, 0.9, 2.0))


def hashes(scans: Sequence[ScoredScan]) -> dict[str, str]:
    """A file's hash for each scan, from its name."""
    return {s.key: f"{s.key:0>64}" for s in scans}


def write_evidence(folder: Path, scans: Sequence[ScoredScan], threshold: float = 0.5, gate: dict | None = None, **metadata) -> Path:
    """What the gate reads of a bundle: rows, figures, hashes, parity, and the gate before training; return the folder."""
    folder = Path(folder)
    write_rows(folder / "evaluation", scans, threshold, TOLERANCE_MM, Fusion())
    old = read_json(folder / "metadata.json") if (folder / "metadata.json").is_file() else {}
    report = {"parity": {"unet": 1e-6, "cnn": 1e-6}, "metrics": {"evaluate": metrics_at(scans, threshold, TOLERANCE_MM)}}
    write_json(folder / "metadata.json", old | report | metadata)
    lineage = {"locked_scans": hashes(scans)} | ({"gate": gate} if gate else {})
    write_json(folder / "lineage.json", lineage)
    write_manifest(folder)
    return folder
