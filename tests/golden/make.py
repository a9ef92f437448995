"""Write the stored answers that test_detect.py compares with. Run `python -m tests.golden.make` when they change on purpose."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from cmb_models.detection import DetectionResult
from cmb_models.files import write_json
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import Volume
from tests.support.bundles import head, make_bundle

STORED = Path(__file__).with_name("answer.json")
ABOUT = (
    "The hand-made bundle of tests/support/bundles.py on an oblique, left-handed, anisotropic head. "
    "Rows: x, y, z mm, i, j, k, mm, scores."
)


def scan() -> Volume:
    """A head stored slices first, mirrored and turned by 10 degrees, on another grid than the networks'."""
    turn = np.deg2rad(10)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, -np.cos(turn), -np.sin(turn)], [0, -np.sin(turn), np.cos(turn)], [1, 0, 0]]) * [2, 0.8, 0.8]
    affine[:3, 3] = -affine[:3, :3] @ (np.array([32, 100, 100]) - 1) / 2 + [0, 0, 1]
    return head(affine=affine, shape=(32, 100, 100), seed=11)


def rows(answer: DetectionResult) -> list[list[float]]:
    """Every candidate as a flat row."""
    return [[*c.position_mm, *c.index, c.diameter_mm, c.score, c.stage1_score, c.stage2_score] for c in answer.candidates]


def detect() -> DetectionResult:
    """What the code says now."""
    with tempfile.TemporaryDirectory() as folder:
        return BundleDetector(make_bundle(Path(folder) / "bundle"), threads=1).detect(scan())


if __name__ == "__main__":
    answer = detect()
    write_json(STORED, {"about": ABOUT, "threshold": answer.threshold, "candidates": rows(answer)})
