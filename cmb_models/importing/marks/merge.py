"""What readings change in annotations.csv: one scan at a time, several raters of a scan by consensus alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cmb_models.dataset.check.marks import ONE_LESION_MM
from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.importing.marks.consensus import consensus
from cmb_models.importing.marks.scans import Placed
from cmb_models.io.annotations import Annotation, EmptyReading

SAME_MM = 0.1  # two marks of one rater nearer than this are one mark, imported twice
NOBODY = "an unnamed rater"


@dataclass(frozen=True)
class Before:
    """What annotations.csv has of a scan."""

    scan: ScanFile
    empty: tuple[str, ...]  # raters who found nothing

    @property
    def marks(self) -> tuple[Annotation, ...]:
        return self.scan.annotations

    @property
    def raters(self) -> set[str]:
        return {m.rater for m in self.marks} | set(self.empty)


@dataclass(frozen=True)
class Change:
    """What changes for a scan. drop: raters whose rows are removed. readings: the marks that each rater made, () for none."""

    scan: ScanFile
    readings: Mapping[str, tuple[Annotation, ...]]
    rows: tuple[Annotation, ...] = ()
    empty: tuple[EmptyReading, ...] = ()
    drop: tuple[str, ...] = ()
    there: int = 0  # marks that were there already


def by_rater(placed: Iterable[Placed]) -> dict[str, tuple[Annotation, ...]]:
    """A scan's marks by rater, each once.

    Raises:
        InputError: If a rater marked something and found nothing, or marked one lesion twice.
    """
    found: dict[str, tuple[Annotation, ...]] = {}
    is_empty: dict[str, bool] = {}
    for p in placed:
        if is_empty.setdefault(p.rater, not p.annotations) != (not p.annotations):
            raise _contradiction(str(p.reading.file), p.scan, p.rater)
        marks = found.get(p.rater, ())
        found[p.rater] = marks + tuple(m for n, m in enumerate(p.annotations) if not _is_among(m, (*marks, *p.annotations[:n])))
        require_apart(str(p.reading.file), p.scan, found[p.rater])
    return found


def added(case: str, before: Before, readings: Mapping[str, tuple[Annotation, ...]]) -> Change:
    """The change of a scan by readings of one rater.

    Raises:
        InputError: If several raters would have read the scan, unless all found nothing, or a lesion would be marked twice.
    """
    others = sorted(before.raters | set(readings))
    if len(others) > 1 and (before.marks or any(readings.values())):
        got = f"readings by {' and '.join(name or NOBODY for name in others)}"
        remedy = "pass the files of all of them with --consensus; imported ones are in derivatives/readings"
        raise InputError("marks-rater", before.scan.key, "one rater's reading", got, remedy)
    rows: tuple[Annotation, ...] = ()
    empty = []
    there = 0
    for rater, marks in readings.items():
        if (marks and rater in before.empty) or (not marks and before.marks):
            raise _contradiction(case, before.scan, rater)
        fresh = tuple(m for m in marks if not _is_among(m, before.marks))
        require_apart(case, before.scan, (*before.marks, *fresh))
        there += len(marks) - len(fresh)
        rows += fresh
        if not marks and rater not in before.empty:
            empty.append(EmptyReading(before.scan.subject, before.scan.session, rater))
    all_marks = {rater: (*(m for m in before.marks if m.rater == rater), *rows) for rater in readings}
    return Change(before.scan, all_marks, rows, tuple(empty), there=there)


def agreed(before: Before, readings: Mapping[str, tuple[Annotation, ...]]) -> Change:
    """The change of a scan by the consensus of several raters, which replaces the readings in annotations.csv that went into it.

    Raises:
        InputError: If one alone read the scan, or annotations.csv has rows of it that are not among the readings: marks that would
            be lost, another rater's, or an earlier consensus, which somebody may have revised.
    """
    if len(readings) < 2:
        got = f"one by {next(iter(readings)) or NOBODY} alone"
        remedy = "add the other reading (a row with the label none, or --others-empty, if nothing was found)"
        raise InputError("marks-rater", before.scan.key, "readings by several raters", got, remedy)
    name = "+".join(sorted(readings))
    rows = tuple(consensus(readings))
    if before.raters == {name} and _same(rows, before.marks):
        return Change(before.scan, readings, there=len(rows))
    lost = {m.rater for m in before.marks if not _is_among(m, readings.get(m.rater, ()))}
    lost |= {rater for rater in before.empty if readings.get(rater) != ()}
    if lost:
        got = f"others of {', '.join(sorted(rater or NOBODY for rater in lost))}"
        remedy = "pass the files of all raters, or remove these rows"
        raise InputError("marks-rater", before.scan.key, "no rows in annotations.csv but those to be compared", got, remedy)
    empty = () if rows else (EmptyReading(before.scan.subject, before.scan.session, name),)
    return Change(before.scan, readings, rows, empty, drop=tuple(before.raters))


def _same(rows: Sequence[Annotation], others: Sequence[Annotation]) -> bool:
    return len(rows) == len(others) and all(_is_among(row, others) for row in rows)


def _is_among(mark: Annotation, others: Collection[Annotation]) -> bool:
    return any(
        mark.label == o.label and mark.rater == o.rater and math.dist(mark.centre_mm, o.centre_mm) <= SAME_MM for o in others
    )


def require_apart(case: str, scan: ScanFile, marks: Sequence[Annotation]) -> None:
    """Raise InputError if two marks are of one lesion: as dataset/check/marks refuses it."""
    for n, one in enumerate(marks):
        for other in marks[:n]:
            is_one = one.label != other.label or one.is_cmb
            if is_one and math.dist(one.centre_mm, other.centre_mm) <= ONE_LESION_MM:
                got = f"{other.label} and {one.label} within {ONE_LESION_MM:g} mm at {one.centre_mm} in {scan.key}"
                remedy = "remove one of them, from the file or from annotations.csv"
                raise InputError("annotation-repeated", case, "one mark a lesion", got, remedy)


def _contradiction(case: str, scan: ScanFile, rater: str) -> InputError:
    got = f"{rater or NOBODY} with both for {scan.key}"
    return InputError("annotations-invalid", case, "marks, or a reading that found nothing", got, "remove one of them")
