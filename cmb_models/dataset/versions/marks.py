"""Which marks and empty readings differ between two versions of a scan's annotations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cmb_models.io.annotations import Annotation

# A microbleed is at most 10 mm across, so its centre is never corrected by more than half of that.
SAME_LESION_MM = 5.0
UNCHANGED_MM = 0.1  # of a centre or a diameter: more than the rounding of a spreadsheet
Kind = Literal["added", "removed", "moved", "relabelled", "edited"]
ScanKey = tuple[str, str, str]  # dataset, subject, session


@dataclass(frozen=True)
class MarkChange:
    """A mark that differs.

    Attributes:
        scan: Dataset, subject and session, as the later version names them.
        kinds: One of added and removed, or any of moved, relabelled and edited (diameter, rater or region).
        before: None if added.
        after: None if removed.
        moved_mm: Distance of both centres; 0 if added or removed.
    """

    scan: ScanKey
    kinds: tuple[Kind, ...]
    before: Annotation | None
    after: Annotation | None
    moved_mm: float = 0.0


def compare_marks(scan: ScanKey, before: Sequence[Annotation], after: Sequence[Annotation]) -> list[MarkChange]:
    """The marks of one scan that differ. The nearest within SAME_LESION_MM are the same lesion, of one label first at one place."""
    pairs = _same_lesions(before, after)
    changes = []
    for i, j in sorted(pairs.items()):
        moved_mm = math.dist(before[i].centre_mm, after[j].centre_mm)
        if kinds := _kinds(before[i], after[j], moved_mm):
            changes.append(MarkChange(scan, kinds, before[i], after[j], moved_mm))
    changes += [MarkChange(scan, ("removed",), mark, None) for i, mark in enumerate(before) if i not in pairs]
    changes += [MarkChange(scan, ("added",), None, mark) for j, mark in enumerate(after) if j not in pairs.values()]
    return changes


def _same_lesions(before: Sequence[Annotation], after: Sequence[Annotation]) -> dict[int, int]:
    candidates = sorted(
        (math.dist(a.centre_mm, b.centre_mm), a.label != b.label, i, j)
        for i, a in enumerate(before)
        for j, b in enumerate(after)
        if math.dist(a.centre_mm, b.centre_mm) <= SAME_LESION_MM
    )
    pairs: dict[int, int] = {}
    for _, _, i, j in candidates:
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _kinds(before: Annotation, after: Annotation, moved_mm: float) -> tuple[Kind, ...]:
    resized = abs(before.diameter_mm - after.diameter_mm) > UNCHANGED_MM
    edited = resized or (before.rater, before.region) != (after.rater, after.region)
    found: tuple[tuple[Kind, bool], ...] = (
        ("moved", moved_mm > UNCHANGED_MM),
        ("relabelled", before.label != after.label),
        ("edited", edited),
    )
    return tuple(kind for kind, holds in found if holds)


@dataclass(frozen=True)
class ReadingChange:
    """An empty reading, a rater's row that nothing was found, that was added or removed."""

    scan: ScanKey
    kind: Literal["added", "removed"]
    rater: str


def compare_empty(scan: ScanKey, before: Collection[str], after: Collection[str]) -> list[ReadingChange]:
    """The empty readings of one scan that differ. before, after: their raters."""
    removed: Iterable[ReadingChange] = (ReadingChange(scan, "removed", rater) for rater in sorted({*before} - {*after}))
    added: Iterable[ReadingChange] = (ReadingChange(scan, "added", rater) for rater in sorted({*after} - {*before}))
    return [*removed, *added]
