"""A detector over a list of stored scans, beside their truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from cmb_models.dataset.layout import find_scans, read_phase
from cmb_models.detection import Detector
from cmb_models.evaluation.matching import ScoredScan, voxel_sides_mm
from cmb_models.io.nifti import read_volume


def score_scans(detector: Detector, raw_dir: Path, index: list[dict]) -> list[ScoredScan]:
    """All candidates with their calibrated scores for the index's scans (io.index), in its order; [] for an empty index."""
    truth = {s.key: s for d in sorted({e["dataset"] for e in index}) for s in find_scans(raw_dir / d)}
    scored = []
    for entry in track(index, description="evaluate the bundle", console=Console(stderr=True)):  # stdout may be someone's JSON
        scan = truth[entry["key"]]
        volume = read_volume(scan.path)
        phase = read_phase(scan.path) if detector.requires_phase else None
        found = detector.detect(volume, phase, case=str(scan.path)).candidates
        centres = np.array([c.position_mm for c in found]).reshape(-1, 3)
        scores = (np.array([getattr(c, name) for c in found], dtype=float) for name in ("score", "stage1_score", "stage2_score"))
        voxel = voxel_sides_mm(volume.spacing_mm)
        scored.append(ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, *scores, voxel))
    return scored
