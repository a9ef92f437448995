"""What several raters' readings of one scan have in common, and how well the raters agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from cmb_models.dataset.check.marks import ONE_LESION_MM
from cmb_models.evaluation.statistics.counts import icc_2_1
from cmb_models.importing.marks.scans import DECIMALS
from cmb_models.io.annotations import Annotation

ROUNDING_MM = 1e-6  # so that the check of a dataset finds no pair either
FAR = 1e6  # mm; a pair that may not match costs more than all that may together
Readings = Mapping[str, Sequence[Annotation]]  # a scan's marks by rater; a rater without marks found nothing


@dataclass(frozen=True)
class PairAgreement:
    """How well two raters agree on `cmb` marks.

    Attributes:
        raters: Their names.
        scans: How many scans both read.
        marks: How many microbleeds each marked.
        matched: How many both marked.
        positive_agreement: 2 matched / (sum of marks), the Dice coefficient of the marks; None without marks. There is no kappa of
            lesions, since the number of places that both left unmarked is not defined.
        kappa: Cohen's kappa of whether a scan has microbleeds; None where it is undefined.
    """

    raters: tuple[str, str]
    scans: int
    marks: tuple[int, int]
    matched: int
    positive_agreement: float | None
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of all raters. icc: ICC(A,1) of microbleeds per scan, over scans that all read; None if undefined."""

    pairs: tuple[PairAgreement, ...] = ()
    icc: float | None = None
    raters: tuple[str, ...] = field(default=())


def reach_mm(one: Annotation, other: Annotation) -> float:
    """How far apart two raters may mark one lesion: ONE_LESION_MM, or the larger radius: both are inside the lesion then."""
    return max(ONE_LESION_MM, one.diameter_mm / 2, other.diameter_mm / 2)


def matches(one: Sequence[Annotation], other: Sequence[Annotation]) -> list[tuple[int, int]]:
    """Pairs of two raters' marks that are of one lesion, one to one: most pairs, then least distance."""
    if not one or not other:
        return []
    distance = np.linalg.norm(np.array([[np.subtract(a.centre_mm, b.centre_mm) for b in other] for a in one]), axis=2)
    reach = np.array([[reach_mm(a, b) for b in other] for a in one])
    cost = np.where(distance <= reach, distance, FAR)
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < FAR]


def consensus(readings: Readings) -> list[Annotation]:
    """The marks of a scan that was read by several raters.

    Marks of one lesion become one of mean centre and diameter, whose rater is all names. It keeps its label if more than half of
    the raters gave it that label, and is `possible` otherwise. More than two raters are matched in the order of their names.

    Args:
        readings: At least two.

    Returns:
        The marks, no two of them within ONE_LESION_MM.
    """
    raters = sorted(readings)
    groups: list[list[Annotation]] = []
    for rater in raters:
        marks = readings[rater]
        group_of = {j: groups[i] for i, j in matches([_mean(group) for group in groups], marks)}
        for j, mark in enumerate(marks):
            if j in group_of:
                group_of[j].append(mark)
            else:
                groups.append([mark])
    kept: list[Annotation] = []
    for group in sorted(groups, key=len, reverse=True):
        label = max({m.label for m in group}, key=lambda name: sum(m.label == name for m in group))
        is_agreed = 2 * sum(m.label == label for m in group) > len(raters)
        mark = _mean(group, label if is_agreed else "possible", "+".join(raters))
        # A second mark of one rater next to a lesion that is marked already.
        if all(math.dist(mark.centre_mm, other.centre_mm) > ONE_LESION_MM + ROUNDING_MM for other in kept):
            kept.append(mark)
    return sorted(kept, key=lambda m: m.centre_mm)


def _mean(group: Sequence[Annotation], label: str = "", rater: str = "") -> Annotation:
    first = group[0]
    x, y, z, diameter_mm = np.mean([(*m.centre_mm, m.diameter_mm) for m in group], axis=0).round(DECIMALS).tolist()
    regions = dict.fromkeys(m.region for m in group if m.region)
    return Annotation(first.subject, first.session, x, y, z, diameter_mm, label or first.label, rater, " / ".join(regions))


def agreement(scans: Sequence[Readings]) -> Agreement:
    """How well raters agree.

    ICC(A,1), which is Shrout and Fleiss's (1979) ICC(2,1): two-way, absolute agreement, one rater (McGraw and Wong 1996).

    Args:
        scans: The readings of each scan.
    """
    raters = sorted({rater for readings in scans for rater in readings})
    pairs = tuple(_pair([r for r in scans if a in r and b in r], a, b) for a, b in itertools.combinations(raters, 2))
    counts = np.array([[len(_cmbs(r[name])) for name in raters] for r in scans if len(r) == len(raters)])
    icc = icc_2_1(counts) if len(counts) > 1 else math.nan
    return Agreement(pairs, icc if math.isfinite(icc) else None, tuple(raters))


def _pair(scans: Sequence[Readings], one: str, other: str) -> PairAgreement:
    found = [(_cmbs(readings[one]), _cmbs(readings[other])) for readings in scans]
    matched = sum(len(matches(a, b)) for a, b in found)
    first, second = sum(len(a) for a, _ in found), sum(len(b) for _, b in found)
    positive = 2 * matched / (first + second) if first + second else None
    kappa = cohen_kappa([bool(a) for a, _ in found], [bool(b) for _, b in found])
    return PairAgreement((one, other), len(found), (first, second), matched, positive, kappa)


def _cmbs(marks: Sequence[Annotation]) -> list[Annotation]:
    return [m for m in marks if m.is_cmb]


def cohen_kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa (1960) of two raters' yes and no, (N,) each; None where chance alone agrees fully."""
    if not one:
        return None
    observed = float(np.mean(np.equal(one, other)))
    p, q = float(np.mean(one)), float(np.mean(other))
    by_chance = p * q + (1 - p) * (1 - q)
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
