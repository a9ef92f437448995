"""One score out of two: how much stage 2's counts beside stage 1's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:  # the server has no use for annotations
    from cmb_models.io.annotations import Annotation

HALF_TRUST = 20  # microbleeds to learn from at which stage 2 has half the weight that it has in the end


def stage2_weight(microbleeds: int) -> float:
    """Stage 2's weight in the joint score once it has learned from so many marked microbleeds: 0 for none, towards one half.

    Stage 1 sees whole scans and ranks usefully after three microbleeds; stage 2 sees candidates only, and taught by three it
    ranks no better than chance, which in an even mean is worse than none (docs/quality.md). The form, n / (n + HALF_TRUST), is
    that of an estimate shrunk by a prior worth HALF_TRUST observations.
    """
    return 0.5 * microbleeds / (microbleeds + HALF_TRUST)


def joint_score(stage1: np.ndarray, stage2: np.ndarray, weight: float) -> np.ndarray:
    """Weighted geometric mean of both stages' scores, stage1^(1 - weight) * stage2^weight, (N,) in [0, 1]."""
    return np.asarray(stage1, dtype=np.float64) ** (1 - weight) * np.asarray(stage2, dtype=np.float64) ** weight


class Marked(Protocol):
    """A scan with what was marked in it: a training example, or one that was scored."""

    @property
    def annotations(self) -> tuple[Annotation, ...]: ...


def weight_of(scans: Iterable[Marked]) -> float:
    """Stage 2's weight in the joint score, by the microbleeds marked in all of a site's training scans."""
    return stage2_weight(sum(a.is_cmb for scan in scans for a in scan.annotations))
