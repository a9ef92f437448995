"""Veins as trees of points: every point knows the one before it on the way to the heart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

KINDS = ("sinus", "deep", "cortical", "sulcal", "medullary", "cerebellar")  # Veins.kind is an index into it
SINUS, DEEP, CORTICAL, SULCAL, MEDULLARY, CEREBELLAR = range(len(KINDS))
CAP_MM = np.array([3.5, 2.2, 1.1, 0.6, 0.4, 0.8])  # largest radius of each kind; deep: the great vein of Galen. Assumed
MURRAY_SPREAD = 0.1  # a branch counts 0.9 to 1.1 times its radius cubed: real branchings scatter about the law. Assumed
MIN_POINTS = 4  # shorter veins are dropped


@dataclass(frozen=True)
class Veins:
    """Trees of P points in template mm. A vein's points follow one another from its parent to its free end.

    points_mm: (P, 3). previous: (P,) index of the next point towards the heart, always smaller than the point's own; -1 at a
    root. vein: (P,) number of the vein, from 0. radius_mm: (P,) of the piece between a point and its previous. kind: (P,) index
    into KINDS. The piece between a branch and its parent's point is the branch's.
    drawn: how many veins of each kind there are.
    """

    points_mm: np.ndarray
    previous: np.ndarray
    vein: np.ndarray
    radius_mm: np.ndarray
    kind: np.ndarray
    drawn: dict[str, int] = field(default_factory=dict)

    @cached_property
    def is_first(self) -> np.ndarray:
        """(P,) bool: the first point of a vein; its previous is a point of the parent, or -1."""
        return np.diff(self.vein, prepend=-1) > 0

    @cached_property
    def pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices (M,) of the previous and the own point of every piece of vein; the own point's radius and kind count."""
        own = np.flatnonzero(self.previous >= 0)
        return self.previous[own], own

    @cached_property
    def junctions(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (B,) where a branch leaves, and the branch's first point (B,)."""
        first = np.flatnonzero(self.is_first & (self.previous >= 0))
        return self.previous[first], first


@dataclass(frozen=True)
class _Batch:
    """Veins added together: first (V,) and count (V,) of their points, the parent's point (V,), radius drawn at both ends (V,)."""

    first: np.ndarray
    count: np.ndarray
    on: np.ndarray
    root_mm: np.ndarray
    tip_mm: np.ndarray
    cap_mm: float

    @property
    def span(self) -> slice:
        return slice(int(self.first[0]), int(self.first[-1] + self.count[-1]))

    @property
    def vein(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.count)), self.count)


class Forest:
    """Trees while they grow. Parents are added before their branches."""

    def __init__(self) -> None:
        self.points_mm, self.along = np.zeros((0, 3)), np.zeros((0, 3))  # (P, 3) and the step that led there, away from the heart
        self.previous, self.kind = np.zeros(0, np.intp), np.zeros(0, np.int8)
        self.nominal_mm = np.zeros(0)  # (P,) radius as drawn, before its branches are known
        self._batches: list[_Batch] = []

    def add(self, path: np.ndarray, steps: np.ndarray, on: np.ndarray, root_mm: np.ndarray, tip_mm: np.ndarray, kind: int) -> None:
        """N veins: path (S + 1, N, 3) from the parent's point on, of which `steps` (N,) count; `on` (N,) parent's point or -1."""
        keep = steps >= MIN_POINTS
        if not keep.any():
            return
        path, steps, on, root_mm, tip_mm = path[:, keep], steps[keep], on[keep], root_mm[keep], tip_mm[keep]
        used = np.arange(len(path) - 1) < steps[:, None]
        total, old = int(steps.sum()), len(self.points_mm)
        first = old + np.cumsum(steps) - steps
        previous = np.arange(old - 1, old + total - 1)
        previous[first - old] = on
        part = ((np.arange(len(path) - 1) + 1) / steps[:, None])[used]
        nominal = np.cbrt(np.repeat(root_mm**3, steps) * (1 - part) + np.repeat(tip_mm**3, steps) * part)
        self.points_mm = np.concatenate([self.points_mm, path[1:].swapaxes(0, 1)[used]])
        self.along = np.concatenate([self.along, np.diff(path, axis=0).swapaxes(0, 1)[used]])
        self.previous = np.concatenate([self.previous, previous])
        self.kind = np.concatenate([self.kind, np.full(total, kind, np.int8)])
        self.nominal_mm = np.concatenate([self.nominal_mm, nominal])
        self._batches.append(_Batch(first, steps, on, root_mm, tip_mm, float(CAP_MM[kind])))

    def veins(self, rng: np.random.Generator) -> Veins:
        """The grown trees with their radii."""
        heads = np.concatenate([b.first for b in self._batches])
        counts = np.bincount(self.kind[heads], minlength=len(KINDS))
        drawn = {f"{name}_veins": int(n) for name, n in zip(KINDS, counts, strict=True)}
        vein = np.repeat(np.arange(counts.sum()), np.concatenate([b.count for b in self._batches]))
        return Veins(self.points_mm, self.previous, vein, np.cbrt(self._flow(rng)), self.kind, drawn)

    def _flow(self, rng: np.random.Generator) -> np.ndarray:
        """Radius cubed (P,), which is what adds up at branchings (Murray 1926, 10.1073/pnas.12.3.207), from the free ends down.

        Where a vein's branches bring less than its drawn radius needs, unseen twigs bring the rest between the branchings. Where
        they bring more than its kind may have, it and all that drains into it are made thinner.
        """
        joined, flow, thinner = np.zeros(len(self.points_mm)), np.zeros(len(self.points_mm)), np.ones(len(self.points_mm))
        own = []
        for batch in reversed(self._batches):
            gain, vein = joined[batch.span].copy(), batch.vein
            free = gain == 0
            twigs = np.maximum(0, batch.root_mm**3 - batch.tip_mm**3 - np.bincount(vein, gain))
            gain += (twigs / np.maximum(1, np.bincount(vein, free)))[vein] * free
            gain[batch.first - batch.first[0] + batch.count - 1] += batch.tip_mm**3
            nearer = np.cumsum(gain) - gain  # what joins between the batch's start and the point
            total = np.bincount(vein, gain)
            flow[batch.span] = total[vein] - (nearer - nearer[batch.first - batch.first[0]][vein])
            own.append(np.minimum(1, batch.cap_mm**3 / total))
            has_parent = batch.on >= 0
            counts = rng.uniform(1 - MURRAY_SPREAD, 1 + MURRAY_SPREAD, len(total))
            np.add.at(joined, batch.on[has_parent], (total * own[-1] * counts)[has_parent])
        for batch, factor in zip(self._batches, reversed(own), strict=True):
            thinner[batch.span] = (factor * np.where(batch.on >= 0, thinner[batch.on], 1))[batch.vein]
        return flow * thinner
