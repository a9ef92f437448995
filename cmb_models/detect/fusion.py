"""Score fusion: one score from those of the candidate network and the classifier."""

from __future__ import annotations

import numpy as np

from cmb_models.config.params import Decision, Fusion

EPSILON = 1e-6  # keeps the log odds of a score finite; below any score difference that matters


def odds(scores: np.ndarray | float) -> np.ndarray:
    """Odds, p / (1 - p), of scores p in [0, 1], which are kept EPSILON away from both ends."""
    p = np.clip(np.asarray(scores, dtype=np.float64), EPSILON, 1 - EPSILON)
    return p / (1 - p)


def fused_score(stage1: np.ndarray, stage2: np.ndarray, joint: Fusion) -> np.ndarray:
    """Weighted mean of both stages' scores (N,), in [0, 1].

    Of their log odds (the logarithmic opinion pool, Genest and Zidek 1986), where near 1 too .99 counts for more than .9; or
    geometric, stage1^(1 - weight) * stage2^weight, to which near 1 all scores are alike.
    """
    one, other = (odds(s) if joint.joint_mean == "log_odds" else np.asarray(s, dtype=np.float64) for s in (stage1, stage2))
    product = one ** (1 - joint.stage2_weight) * other**joint.stage2_weight
    return product / (1 + product) if joint.joint_mean == "log_odds" else product


def calibrated(joint: np.ndarray | float, decision: Decision) -> np.ndarray:
    """Platt scaling of joint scores (N,) (Platt 1999): sigmoid(slope * logit(joint) + intercept), monotone in the joint score."""
    score: np.ndarray = 1 / (1 + np.exp(-(decision.slope * np.log(odds(joint)) + decision.intercept)))
    return score


def before_calibration(score: float, decision: Decision) -> float:
    """The joint score that calibration makes this score of, in [0, 1]; `calibrated` the other way round."""
    return float(1 / (1 + np.exp((decision.intercept - np.log(odds(score))) / decision.slope)))
