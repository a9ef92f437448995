"""Reports of single scans for tests: a head with dark spots, and the detections at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cmb_models.client.outputs import ScanResult
from cmb_models.detection import Detection, DetectionResult
from cmb_models.report.scan.write import write_scan_report
from cmb_models.volume import Volume, index_from_world

CREATED = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def detection(volume: Volume, world_mm: Sequence[float], score: float = 0.9, stage1: float = 0.8, stage2: float = 0.7) -> Detection:
    index = np.rint(index_from_world(np.array([world_mm]), volume.affine))[0].astype(int)
    return Detection(tuple(map(float, world_mm)), tuple(index.tolist()), 4.0, score, stage1, stage2)


def scan_result(volume: Volume, places: Sequence, scan: str = "sub-01_swi", below: Sequence[Detection] = (), **more) -> ScanResult:
    """Places are in RAS mm, and have falling scores above the threshold of 0.5."""
    scores = np.linspace(0.99, 0.6, max(1, len(places)))
    found = [detection(volume, place, float(score)) for place, score in zip(places, scores, strict=False)]
    answer = DetectionResult((*found, *below), 0.5, 3, "ab" * 32)
    return ScanResult(scan, f"scans/{scan}.nii.gz", answer, input_sha256="cd" * 32, **more)


def report(path: Path, volume: Volume, result: ScanResult, **more) -> str:
    """Write a report and read it."""
    write_scan_report(path, result, volume, created=CREATED, **more)
    return path.read_text(encoding="utf-8")
