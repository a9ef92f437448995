"""What readings change in annotations.csv: one scan at a time, several raters of a scan by consensus alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cmb_models.dataset.check.marks import ONE_LESION_MM
from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.importing.marks.consensus import consensus
from cmb_models.importing.marks.reading import listed
from cmb_models.importing.marks.scans import Placed
from cmb_models.io.annotations import Annotation, EmptyReading

SAME_MM = 0.1  # two marks of one rater nearer than this are one mark, imported twice
NOBODY = "an unnamed rater"
READINGS = "derivatives/readings"  # in the dataset: what each rater marked, a file each


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


def faults_of_raters(names: Iterable[str]) -> list[InputError]:
    """Names for which a consensus would count one rater twice: spellings of one name, and that of an earlier consensus."""
    faults = []
    spellings: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        spellings.setdefault("".join(c for c in name.casefold() if c.isalnum()), []).append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            got, remedy = " and ".join(alike), "correct the names: --consensus would take them for two raters"
            faults.append(InputError("marks-rater", "--consensus", "one spelling of a rater's name", got, remedy))
    if joint := [name for names in spellings.values() for name in names if "+" in name]:
        remedy = f"pass each rater's own marks: imported ones are in {READINGS}"
        faults.append(InputError("marks-rater", "--consensus", "readings by one rater each", f"one by {joint[0]}", remedy))
    return faults


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


def added(case: str, before: Before, readings: Mapping[str, tuple[Annotation, ...]], replace: bool = False) -> Change:
    """The change of a scan by readings of one rater. replace: their earlier readings of it are replaced where they differ.

    Raises:
        InputError: If several raters would have read the scan, unless all found nothing, if the rater's earlier reading of it
            differs, or if a lesion would be marked twice.
    """
    others = sorted(before.raters | set(readings))
    if len(others) > 1 and (before.marks or any(readings.values())):
        got = f"readings by {' and '.join(name or NOBODY for name in others)}"
        remedy = f"pass the files of all of them with --consensus; imported ones are in {READINGS}"
        raise InputError("marks-rater", before.scan.key, "one rater's reading", got, remedy)
    kept: dict[str, tuple[Annotation, ...]] = {}
    rows: tuple[Annotation, ...] = ()
    empty: list[EmptyReading] = []
    drop: list[str] = []
    for rater, marks in readings.items():
        earlier = tuple(m for m in before.marks if m.rater == rater)
        is_read = rater in before.raters
        if is_read and not (differences := _differences(marks, earlier)):
            kept[rater] = earlier
            continue
        if is_read and not replace:
            if not marks or not earlier:
                raise _contradiction(case, before.scan, rater)
            got = f"another one by {rater or NOBODY} of {before.scan.key}: {differences}"
            remedy = "pass all files of a reading together, or --replace if this one replaces the earlier"
            raise InputError("annotation-repeated", case, "the reading that annotations.csv has, or its revision", got, remedy)
        drop += [rater] if is_read else []
        rows += marks
        empty += [] if marks else [EmptyReading(before.scan.subject, before.scan.session, rater)]
    there = sum(len(marks) for marks in kept.values())
    return Change(before.scan, {r: kept.get(r, marks) for r, marks in readings.items()}, rows, tuple(empty), tuple(drop), there)


def _differences(marks: Sequence[Annotation], earlier: Sequence[Annotation]) -> str:
    """What one reading has and the other has not, in words; "" if they are the same."""
    parts = []
    for name, some, others in (("only in the file", marks, earlier), ("only in annotations.csv", earlier, marks)):
        if own := [m for m in some if not any(_is_unchanged(m, o) for o in others)]:
            parts.append(f"{name} {listed(f'{m.label} of {m.diameter_mm:g} mm at {m.centre_mm}' for m in own)}")
    return "; ".join(parts)


def _is_unchanged(one: Annotation, other: Annotation) -> bool:
    return _is_among(one, (other,)) and abs(one.diameter_mm - other.diameter_mm) <= SAME_MM


def agreed(before: Before, readings: Mapping[str, tuple[Annotation, ...]], replace: bool = False) -> Change:
    """The change of a scan by the consensus of several raters, which replaces the readings in annotations.csv that went into it.

    With `replace`, it replaces their other rows too, and their earlier consensus.

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
    if replace:
        lost -= {*readings, name}
    if lost:
        got = f"others of {', '.join(sorted(rater or NOBODY for rater in lost))}"
        remedy = "pass the files of all raters, and --replace if these replace earlier readings"
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
                raise InputError("annotation-repeated", case, "one mark per lesion", got, remedy)


def _contradiction(case: str, scan: ScanFile, rater: str) -> InputError:
    got = f"{rater or NOBODY} with both for {scan.key}"
    return InputError("annotations-invalid", case, "marks, or a reading that found nothing", got, "remove one of them")
