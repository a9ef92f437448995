"""A threshold for some subjects, chosen on the scores of others."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.leaks import keep_apart
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import choose_threshold


def threshold_apart(judged: Sequence[ScoredScan], chosen_on: Sequence[ScoredScan], tolerance_mm: float, most_fp: float) -> float:
    """The most sensitive threshold with at most `most_fp` false positives per scan of `chosen_on`.

    Raises InputError when a subject of `judged` is among those: chosen and counted on the same scans it flatters.
    """
    keep_apart("a threshold", (s.subject for s in chosen_on), (s.subject for s in judged), "choose it on other folds")
    return choose_threshold(froc(chosen_on, tolerance_mm), most_fp)
