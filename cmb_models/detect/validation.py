"""Do the arrays that pass between the steps fit each other? In one process they do; a served step can be sent anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.arrays import Array
from cmb_models.detect.preprocess import Prepared
from cmb_models.errors import InputError
from cmb_models.volume import Volume

REMEDY = "send scans to the detector, not to its steps"
MOST_MM = 1e5  # ten times as far as a scan may lie: its farthest voxel and more


@dataclass(frozen=True)
class CandidateList:
    """Stage 1's candidates of one scan, N of them, best first.

    index_vox: (N, 3) int64 on the working grid. centre_mm: (N, 3) float64 RAS. diameter_mm, stage1_score: (N,) float32.
    """

    index_vox: np.ndarray
    centre_mm: np.ndarray
    diameter_mm: np.ndarray
    stage1_score: np.ndarray


def check_prepared(heatmap: Array, prepared: Prepared) -> None:
    """Raise InputError unless a heatmap (I, J, K) and a prepared scan are of one grid, which has a place in space."""
    image, extent = prepared.image, prepared.shape
    if heatmap.shape != image.shape:
        raise InputError(
            "step-inconsistent", "candidates", "a heatmap on the image's grid", f"{heatmap.shape} for {image.shape}", REMEDY
        )
    if len(extent) != 3 or not all(1 <= e <= s for e, s in zip(extent, image.shape, strict=True)):
        raise InputError("step-inconsistent", "candidates", "an extent within the image", f"{extent} of {image.shape}", REMEDY)
    if prepared.phase is not None and prepared.phase.shape != image.shape:
        raise InputError(
            "step-inconsistent", "candidates", "a phase on the image's grid", f"{prepared.phase.shape} for {image.shape}", REMEDY
        )
    _check_affine("candidates", prepared.affine)


def check_candidates(found: CandidateList, stage2_score: np.ndarray, affine: np.ndarray) -> None:
    """Raise InputError unless there is one of everything for each candidate, with a place and scores in [0, 1].

    Stage 2's scores may be NaN: that is a fault of the network, reported elsewhere.
    """
    lengths = [len(a) for a in (found.index_vox, found.centre_mm, found.diameter_mm, found.stage1_score, stage2_score)]
    if len(set(lengths)) > 1:
        expected = "as many indices, centres, diameters and scores of each stage"
        raise InputError("step-inconsistent", "decision", expected, ", ".join(map(str, lengths)), REMEDY)
    _check_affine("decision", affine)
    score = np.asarray(found.stage1_score)
    if not (np.isfinite(found.centre_mm).all() and np.abs(found.centre_mm).max(initial=0) < MOST_MM):
        raise InputError("step-inconsistent", "decision", f"centres within {MOST_MM:g} mm", "others", REMEDY)
    outside = (np.min(score, initial=0), np.max(score, initial=0), np.min(stage2_score, initial=0), np.max(stage2_score, initial=0))
    if min(outside) < 0 or max(outside) > 1 or not np.isfinite(score).all():
        raise InputError("step-inconsistent", "decision", "scores from 0 to 1", f"{min(outside):g} to {max(outside):g}", REMEDY)


def _check_affine(step: str, affine: np.ndarray) -> None:
    try:
        Volume(np.zeros((1, 1, 1), dtype=np.float32), affine)
    except ValueError as error:
        raise InputError("step-inconsistent", step, "an affine", str(error), REMEDY) from error
