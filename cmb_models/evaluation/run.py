"""A detector over a list of stored scans, beside their truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.progress import track

from cmb_models.detection import Answer
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.io.nifti import read_volume
from cmb_models.io.site import find_scans
from cmb_models.volume import Volume


def score_scans(detector: Callable[[Volume, str], Answer], raw_dir: Path, index: list[dict]) -> list[ScoredScan]:
    """All candidates with their calibrated scores for the index's scans (io.index), in its order; [] for an empty index."""
    truth = {s.key: s for d in sorted({e["dataset"] for e in index}) for s in find_scans(raw_dir / d)}
    scored = []
    for entry in track(index, description="evaluate the bundle"):
        scan = truth[entry["key"]]
        candidates = detector(read_volume(scan.path), str(scan.path)).candidates
        centres = np.array([c.world_mm for c in candidates]).reshape(-1, 3)
        scored.append(ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, np.array([c.score for c in candidates])))
    return scored
