"""One score out of two: how they are joined, and how much stage 2's counts beside stage 1's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cmb_models.config import Joint

if TYPE_CHECKING:  # the server has no use for annotations
    from cmb_models.io.annotations import Annotation

HALF_TRUST = 20  # microbleeds to learn from at which stage 2 has half the weight that it has in the end
EPSILON = 1e-6  # keeps the log odds of a score finite; below any score difference that matters


def odds(scores: np.ndarray) -> np.ndarray:
    """p / (1 - p) of scores p in [0, 1], which are kept EPSILON away from both ends."""
    p = np.clip(np.asarray(scores, dtype=np.float64), EPSILON, 1 - EPSILON)
    return p / (1 - p)


def stage2_weight(microbleeds: int) -> float:
    """Stage 2's weight in the joint score once it has learned from so many marked microbleeds: 0 for none, towards one half.

    Stage 1 sees whole scans and ranks usefully after three microbleeds; stage 2 sees candidates only, and taught by three it
    ranks no better than chance, which in an even mean is worse than none (docs/quality.md). The form, n / (n + HALF_TRUST), is
    that of an estimate shrunk by a prior worth HALF_TRUST observations.
    """
    return 0.5 * microbleeds / (microbleeds + HALF_TRUST)


def joint_score(stage1: np.ndarray, stage2: np.ndarray, joint: Joint) -> np.ndarray:
    """Weighted mean of both stages' scores (N,), in [0, 1].

    Of their log odds (the logarithmic opinion pool, Genest and Zidek 1986), where near 1 too .99 counts for more than .9; or
    geometric, stage1^(1 - weight) * stage2^weight, to which near 1 all scores are alike.
    """
    one, other = (odds(s) if joint.joint_mean == "log_odds" else np.asarray(s, dtype=np.float64) for s in (stage1, stage2))
    product = one ** (1 - joint.stage2_weight) * other**joint.stage2_weight
    return product / (1 + product) if joint.joint_mean == "log_odds" else product


def shortfalls(stage1: np.ndarray, stage2: np.ndarray, joint: Joint, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """How much of what a joint score lacks to a threshold each stage's score (N,) lacks: on the scale of their mean, (N,) each.

    They sum to what the joint score lacks; a stage that is above the threshold itself, or does not count, lacks nothing. threshold:
    on the joint score, in [0, 1].
    """
    scaled = odds if joint.joint_mean == "log_odds" else lambda s: np.clip(s, EPSILON, 1)
    one, other, at = (np.log(scaled(s)) for s in (stage1, stage2, threshold))
    return (1 - joint.stage2_weight) * (at - one), joint.stage2_weight * (at - other)


class Marked(Protocol):
    """A scan with what was marked in it: a training example, or one that was scored."""

    @property
    def annotations(self) -> tuple[Annotation, ...]: ...


def joint_of(scans: Iterable[Marked]) -> Joint:
    """How networks that learned from all of a site's training scans are joined: stage 2 by the microbleeds marked in these."""
    return Joint(stage2_weight=stage2_weight(sum(a.is_cmb for scan in scans for a in scan.annotations)), joint_mean="log_odds")
