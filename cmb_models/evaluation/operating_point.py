"""What is decided on out-of-fold scores: threshold, calibration and the weights of the score fusion.

The same for a release and, in a nested cross-validation, inside each outer fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from cmb_models.config.params import Decision, Fusion, Params
from cmb_models.dataset.leakage import keep_apart
from cmb_models.detect.fusion import EPSILON, calibrated, odds
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan, all_judged
from cmb_models.evaluation.metrics import choose_threshold
from cmb_models.evaluation.statistics.calibration import fit_platt
from cmb_models.io.annotations import Annotation

# Microbleeds to learn from at which the classifier has half the weight that it has in the end.
HALF_TRUST = 20


def decide_on(scans: Sequence[ScoredScan], params: Params) -> Decision:
    """The decision for networks of the kind that gave these scans their joint scores, from these scans alone.

    The threshold is chosen on joint scores (metrics.choose_threshold, at most calibrate.max_fp_per_scan) and given on the
    calibrated
    scale; calibration is monotone, so it keeps what passes. Raises InputError when there are no candidates to learn from.
    """
    tolerance = params.evaluate.tolerance_mm
    threshold = choose_threshold(froc(scans, tolerance), params.calibrate.max_fp_per_scan)
    slope, intercept = fit_platt(*all_judged(scans, tolerance))
    uncut = Decision(slope=slope, intercept=intercept, threshold=0.0, **fusion_for(scans).model_dump())
    return uncut.model_copy(update={"threshold": float(calibrated(threshold, uncut))})


def threshold_apart(judged: Sequence[ScoredScan], chosen_on: Sequence[ScoredScan], tolerance_mm: float, most_fp: float) -> float:
    """The most sensitive threshold with at most `most_fp` false positives per scan of `chosen_on`.

    Raises InputError when a subject of `judged` is among those: chosen and counted on the same scans it flatters.
    """
    keep_apart("a threshold", (s.subject for s in chosen_on), (s.subject for s in judged), "choose it on other folds")
    return choose_threshold(froc(chosen_on, tolerance_mm), most_fp)


def stage2_weight(microbleeds: int) -> float:
    """Stage 2's weight in the joint score once it has learned from so many marked microbleeds: 0 for none, towards one half.

    Stage 1 sees whole scans and ranks usefully after three microbleeds; stage 2 sees candidates only, and taught by three it
    ranks no better than chance, which in an even mean is worse than none (research/findings.md). The form, n / (n + HALF_TRUST), is
    that of an estimate shrunk by a prior worth HALF_TRUST observations.
    """
    return 0.5 * microbleeds / (microbleeds + HALF_TRUST)


def shortfalls(stage1: np.ndarray, stage2: np.ndarray, joint: Fusion, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """How much of what a joint score lacks to a threshold each stage's score (N,) lacks: on the scale of their mean, (N,) each.

    They sum to what the joint score lacks; a stage that is above the threshold itself, or does not count, lacks nothing. threshold:
    on the joint score, in [0, 1].
    """

    def scaled(scores: np.ndarray | float) -> np.ndarray:
        return odds(scores) if joint.joint_mean == "log_odds" else np.clip(np.asarray(scores), EPSILON, 1)

    one, other, at = (np.log(scaled(s)) for s in (stage1, stage2, threshold))
    return (1 - joint.stage2_weight) * (at - one), joint.stage2_weight * (at - other)


class Marked(Protocol):
    """A scan with what was marked in it: a training example, or one that was scored."""

    @property
    def annotations(self) -> tuple[Annotation, ...]: ...


def fusion_for(scans: Iterable[Marked]) -> Fusion:
    """How networks that learned from all of a site's training scans are joined: stage 2 by the microbleeds marked in these."""
    return Fusion(stage2_weight=stage2_weight(sum(a.is_cmb for scan in scans for a in scan.annotations)), joint_mean="log_odds")
