"""Do two answers agree? One rule for golden scans, server checks and soak tests."""

from __future__ import annotations

import numpy as np

from cmb_models.detection import DetectionResult

SCORE_TOLERANCE = 1e-4  # between ONNX runtimes and builds: scores pass two networks that agree to 1e-6 each
PLACE_TOLERANCE_MM = 0.1  # well below a voxel: a candidate is the same voxel or another one


def rows_of(answer: DetectionResult) -> np.ndarray:
    """[x_mm, y_mm, z_mm, score] of each candidate, (N, 4) float64; (0, 4) without any."""
    return np.asarray([[*c.position_mm, c.score] for c in answer.candidates], dtype=np.float64).reshape(-1, 4)


def difference(expected: np.ndarray, got: np.ndarray) -> str:
    """What differs between the rows (N, 4) of two answers, "" where nothing does beyond the tolerances; two empty ones agree.

    Candidates are paired by place: those of nearly equal score may change order.
    """
    if len(got) != len(expected):
        return f"{len(got)} candidates for {len(expected)}"
    if not len(expected):
        return ""
    apart_mm = np.linalg.norm(expected[:, None, :3] - got[None, :, :3], axis=-1)
    nearest, moved_mm = apart_mm.argmin(axis=1), apart_mm.min(axis=1).max()
    if moved_mm > PLACE_TOLERANCE_MM or len(set(nearest.tolist())) < len(nearest):
        return f"places up to {moved_mm:.2f} mm away (tolerance {PLACE_TOLERANCE_MM:g})"
    score = np.abs(expected[:, 3] - got[nearest, 3]).max()
    return f"scores up to {score:.2g} apart (tolerance {SCORE_TOLERANCE:g})" if score > SCORE_TOLERANCE else ""
