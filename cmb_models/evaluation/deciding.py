"""What is decided on scores out of fold: threshold, calibration and how both scores are joined, of a release and, in a nested
cross-validation, inside each outer fold alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_models.config import Decision, Params
from cmb_models.detect.detector import calibrated
from cmb_models.detect.joint import joint_of
from cmb_models.evaluation.calibration import fit_platt
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan, all_judged
from cmb_models.evaluation.metrics import choose_threshold


def decide_on(scans: Sequence[ScoredScan], params: Params) -> Decision:
    """The decision for networks of the kind that gave these scans their joint scores, from these scans alone.

    The threshold is chosen on joint scores (metrics.choose_threshold, at most calibrate.max_fp_per_scan) and told on the calibrated
    scale; calibration is monotone, so it keeps what passes. Raises InputError when there are no candidates to learn from.
    """
    tolerance = params.evaluate.tolerance_mm
    threshold = choose_threshold(froc(scans, tolerance), params.calibrate.max_fp_per_scan)
    slope, intercept = fit_platt(*all_judged(scans, tolerance))
    uncut = Decision(slope=slope, intercept=intercept, threshold=0.0, **joint_of(scans).model_dump())
    return uncut.model_copy(update={"threshold": float(calibrated(np.float64(threshold), uncut))})
