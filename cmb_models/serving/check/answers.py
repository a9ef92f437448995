"""Comparison of two detection results, for golden scans, server checks and soak tests."""

from __future__ import annotations

import numpy as np

from cmb_models.detection import DetectionResult

SCORE_TOLERANCE = 1e-4  # between ONNX runtimes and builds; each network agrees to 1e-6
POSITION_TOLERANCE_MM = 0.1  # well below a voxel


def rows_of(answer: DetectionResult) -> np.ndarray:
    """[x_mm, y_mm, z_mm, score] of each candidate, (N, 4) float64; (0, 4) without any."""
    return np.asarray([[*c.position_mm, c.score] for c in answer.candidates], dtype=np.float64).reshape(-1, 4)


def difference(expected: np.ndarray, got: np.ndarray) -> str:
    """The difference between the rows (N, 4) of two results, "" within the tolerances; two empty ones agree.

    Candidates are paired by position, since those of nearly equal score may change order.
    """
    if len(got) != len(expected):
        return f"{len(got)} candidates instead of {len(expected)}"
    if not len(expected):
        return ""
    distance_mm = np.linalg.norm(expected[:, None, :3] - got[None, :, :3], axis=-1)
    nearest, moved_mm = distance_mm.argmin(axis=1), distance_mm.min(axis=1).max()
    if moved_mm > POSITION_TOLERANCE_MM or len(set(nearest.tolist())) < len(nearest):
        return f"positions up to {moved_mm:.2f} mm apart (tolerance {POSITION_TOLERANCE_MM:g})"
    score = np.abs(expected[:, 3] - got[nearest, 3]).max()
    return f"scores up to {score:.2g} apart (tolerance {SCORE_TOLERANCE:g})" if score > SCORE_TOLERANCE else ""
