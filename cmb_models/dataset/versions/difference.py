"""The difference of two versions of the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cmb_models.dataset.versions.marks import MarkChange, ReadingChange, ScanKey, compare_empty, compare_marks
from cmb_models.dataset.versions.scans import FileChange, ScanChange, ScanName, compare_files, compare_scans, scans_of
from cmb_models.dataset.versions.version import DatasetVersion, DataVersion, VersionedFile
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation


@dataclass(frozen=True)
class Counts:
    """What one version of a dataset holds."""

    scans: int
    subjects: int
    cmbs: int


@dataclass(frozen=True)
class Difference:
    """What changed from one version of the data to another.

    Attributes:
        before: Counts by dataset.
        after: Counts by dataset.
        datasets: (added, removed) names of datasets.
        subjects: (added, removed) as (dataset, subject), without those whose scans were renamed.
        scans: Scans that differ.
        marks: Marks that differ, of scans that are in both versions.
        readings: Empty readings that differ, likewise.
        files: Other files that differ.
        notes: Limits of the comparison, as sentences.
    """

    before: dict[str, Counts]
    after: dict[str, Counts]
    datasets: tuple[list[str], list[str]]
    subjects: tuple[list[tuple[str, str]], list[tuple[str, str]]]
    scans: list[ScanChange]
    marks: list[MarkChange]
    readings: list[ReadingChange]
    files: list[FileChange]
    notes: list[str]

    @property
    def is_empty(self) -> bool:
        return not (any(self.datasets) or self.scans or self.marks or self.readings or self.files)

    def as_dict(self) -> dict[str, Any]:
        """The difference for JSON."""
        parts = asdict(self)
        for name in ("datasets", "subjects"):
            parts[name] = dict(zip(("added", "removed"), parts[name], strict=True))
        return parts


def difference(before: DataVersion, after: DataVersion) -> Difference:
    """Compare two versions. A single folder is compared with the dataset of its name, two folders with each other.

    Raises:
        InputError: If the other version has no dataset of a folder's name.
    """
    before, after = _comparable(before, after)
    old, new = scans_of(before), scans_of(after)
    changes = compare_scans(old, new)
    marks, readings = _readings(before, after, changes)
    return Difference(
        _counts(before, old),
        _counts(after, new),
        _added_removed(before.datasets, after.datasets),
        _subjects(old, new, changes),
        changes,
        marks,
        readings,
        compare_files(before, after),
        _notes(changes),
    )


def _comparable(before: DataVersion, after: DataVersion) -> tuple[DataVersion, DataVersion]:
    """Both versions with the datasets that are compared, folders under the name that the later version gives them."""
    if before.is_folder and after.is_folder:
        (old,), (new,) = before.datasets.values(), after.datasets.values()
        return replace(before, datasets={new.name: replace(old, name=new.name)}), after
    if before.is_folder:
        return before, _only(after, *before.datasets)
    return (_only(before, *after.datasets), after) if after.is_folder else (before, after)


def _only(version: DataVersion, name: str) -> DataVersion:
    if name not in version.datasets:
        got = ", ".join(version.datasets) or "none"
        raise InputError("data-version", version.label, f"a dataset {name}, as the folder is called", got, "name two folders")
    return replace(version, datasets={name: version.datasets[name]})


def _counts(version: DataVersion, scans: Iterable[ScanName]) -> dict[str, Counts]:
    names = list(scans)
    return {
        dataset: Counts(
            sum(n.dataset == dataset for n in names),
            len({n.subject for n in names if n.dataset == dataset}),
            sum(a.is_cmb for a in found.readings.annotations),
        )
        for dataset, found in version.datasets.items()
    }


def _added_removed(before: Iterable[Any], after: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    return sorted({*after} - {*before}), sorted({*before} - {*after})


def _subjects(
    before: Mapping[ScanName, VersionedFile], after: Mapping[ScanName, VersionedFile], changes: Iterable[ScanChange]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    renamed = {(n.dataset, n.subject) for c in changes if c.kind == "renamed" for n in (c.before, c.after) if n}
    added, removed = _added_removed(*({(n.dataset, n.subject) for n in side} for side in (before, after)))
    return [s for s in added if s not in renamed], [s for s in removed if s not in renamed]


def _readings(
    before: DataVersion, after: DataVersion, changes: Iterable[ScanChange]
) -> tuple[list[MarkChange], list[ReadingChange]]:
    """What differs in the rows of scans that are in both versions, by the later version's names."""
    renamed = {c.before.key: c.after.key for c in changes if c.before and c.after and c.before.key != c.after.key}
    gone = {c.before.key for c in changes if c.before and not c.after}
    new = {c.after.key for c in changes if c.after and not c.before}
    marks_before, empty_before = _by_scan(before.datasets.values(), gone, renamed)
    marks_after, empty_after = _by_scan(after.datasets.values(), new, {})
    marks, readings = [], []
    for scan in sorted({*marks_before, *marks_after}):
        marks += compare_marks(scan, marks_before[scan], marks_after[scan])
    for scan in sorted({*empty_before, *empty_after}):
        readings += compare_empty(scan, empty_before[scan], empty_after[scan])
    return marks, readings


def _by_scan(
    datasets: Iterable[DatasetVersion], left_out: set[ScanKey], renamed: Mapping[ScanKey, ScanKey]
) -> tuple[dict[ScanKey, list[Annotation]], dict[ScanKey, list[str]]]:
    """Marks, and raters of empty readings, by scan."""
    marks: dict[ScanKey, list[Annotation]] = defaultdict(list)
    empty: dict[ScanKey, list[str]] = defaultdict(list)
    for dataset in datasets:
        for mark in dataset.readings.annotations:
            if (key := (dataset.name, mark.subject, mark.session)) not in left_out:
                marks[renamed.get(key, key)].append(mark)
        for reading in dataset.readings.empty:
            if (key := (dataset.name, reading.subject, reading.session)) not in left_out:
                empty[renamed.get(key, key)].append(reading.rater)
    return marks, empty


def _notes(changes: Iterable[ScanChange]) -> list[str]:
    unread = sum(change.kind == "file changed" for change in changes)
    if not unread:
        return []
    scans = "1 scan was" if unread == 1 else f"{unread} scans were"
    return [f"{scans} compared by file alone, since a version is not in DVC's cache or cannot be read (`dvc fetch --all-commits`)"]
