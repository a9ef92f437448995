"""`cmb import marks`: read the files, find their scans, check, and write annotations.csv once, or nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmb_models.dataset.check.frames import REMEDIES, darkness_by_frame, other_frame
from cmb_models.dataset.layout import ANNOTATIONS, ScanFile, find_scans
from cmb_models.errors import InputError, joined
from cmb_models.files import exclusive, files_below, system_reason
from cmb_models.importing.identity import Patient, open_key
from cmb_models.importing.marks.consensus import Agreement, agreement
from cmb_models.importing.marks.forms.detect import KNOWN, read_file
from cmb_models.importing.marks.forms.masks import MASK
from cmb_models.importing.marks.merge import READINGS, Before, Change, added, agreed, by_rater, faults_of_raters
from cmb_models.importing.marks.reading import FRAMES, Options, Reading, listed
from cmb_models.importing.marks.scans import Placed, placed, rater_in, scan_of, stray_number
from cmb_models.io.annotations import Annotation, EmptyReading, Readings, read_readings, update_annotations, write_annotations
from cmb_models.io.nifti import read_volume, scan_name

OTHERS = "--others-empty"  # the form of readings that no file has
UNREAD = "save it in a known form, or pass a folder or files without it"


@dataclass(frozen=True)
class Line:
    """What becomes of one reading, or of a file or scan."""

    file: str
    form: str
    subject: str
    session: str
    rater: str
    marks: int
    becomes: str


@dataclass(frozen=True)
class Outcome:
    """What an import of marks did, or would do. added: rows of annotations.csv. agreement: of the raters, with consensus."""

    lines: tuple[Line, ...]
    added: int
    agreement: Agreement | None = None


def import_marks(
    sources: Sequence[Path],
    dataset: Path,
    options: Options | None = None,
    consensus: bool = False,
    others_empty: bool = False,
    dry_run: bool = False,
    key_file: Path | None = None,
    replace_earlier: bool = False,
) -> Outcome:
    """Add readers' marks to the scans of a dataset. Either all is written, or nothing.

    Args:
        sources: Files of any form, or folders of them.
        dataset: Folder of the dataset, with its scans and annotations.csv.
        options: How the files are to be read.
        consensus: Write what several raters agree on. A source without names of raters is one rater's, of the source's name.
        others_empty: The raters read all other scans of the dataset too, and found nothing.
        dry_run: Write nothing.
        key_file: That of the import of the scans, by which names that patients had before it are known.
        replace_earlier: Readings replace the rows that their raters have of these scans; otherwise other ones are refused.

    Returns:
        A line for each reading and its scan.

    Raises:
        InputError: Listing all faults: files that cannot be read, marks without a scan, outside it, or of a lesion that is marked
            already, masks of another grid, a frame that does not fit, scans of several raters without `consensus`.
    """
    sources, dataset, options = [Path(s) for s in sources], Path(dataset), options or Options()
    if not dataset.is_dir():
        raise InputError("file-not-found", dataset, "a dataset", "no such folder", "import the scans first: cmb import scans")
    if consensus and options.rater:
        raise InputError(
            "options-conflict", "--rater", "none with --consensus", options.rater, "pass a file or folder of each rater"
        )
    faults: list[InputError] = []
    files, lines = _files(sources, faults)
    if others_empty:  # one of them may be the reading of a scan that would be called empty
        faults += [
            InputError("marks-form", line.file, f"files that are read, with {OTHERS}", "one of no known form", UNREAD)
            for line in lines
        ]
    if (options.subject or options.session) and len(files) > 1:
        got = f"{len(files)} files"
        raise InputError("options-conflict", "--subject, --session", "one file", got, "import them one by one, or rename them")
    patients = open_key(key_file, dataset).patients if key_file else {}
    with nullcontext() if dry_run else exclusive(dataset):
        scans = find_scans(dataset)
        readings = _read(files, options, consensus, patients, faults)
        faults += faults_of_raters(rater for _, rater in readings) if consensus else []
        found = _placed(readings, scans, patients, faults)
        if others_empty:
            found += _others(found, scans, options)
        _raise_all(dataset, faults)
        empty = read_readings(dataset / ANNOTATIONS).empty
        changes, more = _changes(found, empty, consensus, replace_earlier, faults)
        _raise_all(dataset, faults)
        if not dry_run:
            _write(dataset, changes)
    rows = sum(len(c.rows) + len(c.empty) for c in changes)
    return Outcome((*lines, *more), rows, agreement([c.readings for c in changes]) if consensus else None)


def _files(sources: Sequence[Path], faults: list[InputError]) -> tuple[list[tuple[str, Path, Path]], list[Line]]:
    """All files with their source and its name, and those of folders that have no form. Folders that cannot be read are faults."""

    def unread(error: OSError) -> None:
        remedy = "correct its permissions, or pass the files that are to be imported"
        faults.append(InputError("file-not-readable", error.filename, "a folder that can be read", system_reason(error), remedy))

    files: list[tuple[str, Path, Path]] = []
    others: list[Path] = []
    names = [scan_name(s).split(".")[0] for s in sources]
    if len(set(names)) < len(names):  # A/marks.csv and B/marks.csv
        names = [s.resolve().parent.name for s in sources]
    for name, source in zip(names, sources, strict=True):
        for file in files_below(source, unread) if source.is_dir() else [source]:
            is_known = not source.is_dir() or file.name.lower().endswith(KNOWN)
            if is_known:
                files.append((name, source, file))
            else:
                others.append(file)
    if not files and not faults:
        got = f"{len(others)} files of other forms" if others else "none"
        remedy = f"pass files of a known form: {', '.join(KNOWN)}"
        raise InputError("import-nothing", ", ".join(map(str, sources)), "files of marks", got, remedy)
    return files, [Line(str(file), "-", "", "", "", 0, "skipped: not of a known form") for file in others]


def _read(
    files: Sequence[tuple[str, Path, Path]],
    options: Options,
    consensus: bool,
    patients: Mapping[str, Patient],
    faults: list[InputError],
) -> list[tuple[Reading, str]]:
    """Every reading with its rater."""
    readings = []
    for name, source, file in files:
        with _collected(faults):
            for reading in read_file(file, options):
                rater = reading.rater or options.rater or (rater_in(name, source, patients) if consensus else "")
                subject, session = reading.subject or options.subject, reading.session or options.session
                whose = replace(reading, subject=subject, session=session, source=source)
                readings.append((whose, " ".join(rater.split())))
    return readings


def _placed(
    readings: Sequence[tuple[Reading, str]], scans: Sequence[ScanFile], patients: Mapping[str, Patient], faults: list[InputError]
) -> list[Placed]:
    """Readings at their scans, one scan in memory at a time. Faults of place are left out where another frame explains them."""
    of_scan: dict[str, list[tuple[Reading, str]]] = defaultdict(list)
    by_key = {s.key: s for s in scans}
    for reading, rater in readings:
        with _collected(faults):
            scan = scan_of(reading, scans, patients)
            of_scan[scan.key].append((_noted(reading, stray_number(reading, scan, patients)), rater))
    found = []
    outside: list[InputError] = []
    dark: dict[str, list[Mapping[str, np.ndarray]]] = defaultdict(list)
    for key, own in of_scan.items():
        with _collected(faults):
            volume = read_volume(by_key[key].path)
            for frame in FRAMES:
                positions = [m.position for r, _ in own for m in r.marks if m.frame == frame and m.label == "cmb"]
                dark[frame] += [darkness_by_frame(np.array(positions), volume)] if positions else []
            for reading, rater in own:
                with _collected(outside):
                    found.append(placed(reading, by_key[key], volume, rater))
    wrong = [error for frame, marks in dark.items() if (error := _frame_fault(frame, marks, readings))]
    faults += wrong + [e for e in outside if not wrong or e.code != "annotation-outside"]
    return found


def _noted(reading: Reading, number: str) -> Reading:
    """With a note of a number in its file's name that may have meant a session."""
    note = f"{number!r} in its name is read as no session" if number else ""
    return replace(reading, note="; ".join(filter(None, [reading.note, note])))


def _frame_fault(
    frame: str, dark: Sequence[Mapping[str, np.ndarray]], readings: Sequence[tuple[Reading, str]]
) -> InputError | None:
    other = other_frame(dark, FRAMES[frame])
    if other is None:
        return None
    own = [r for r, _ in readings if any(m.frame == frame for m in r.marks)]
    case = listed(dict.fromkeys(r.file.name for r in own))
    option = next((f"pass --frame {name}" for name, read_as in FRAMES.items() if read_as == other.name), None)
    remedy = (
        option
        if option and not any(r.form == MASK or r.states_frame for r in own)
        else REMEDIES.get(other.name, "correct the scans' affines")
    )
    return InputError("annotation-frame", case, f"marks in the frame {FRAMES[frame]}", other.found, remedy)


def _others(found: Sequence[Placed], scans: Sequence[ScanFile], options: Options) -> list[Placed]:
    """Readings without marks of the scans that neither the files nor annotations.csv say the raters read."""
    empties = []
    for rater in sorted({p.rater for p in found} or {options.rater}):
        read = {p.scan.key for p in found if p.rater == rater}
        # Of a consensus as well.
        read |= {s.key for s in scans if any(rater in (a.rater, *a.rater.split("+")) for a in s.annotations)}
        empties += [Placed(Reading(Path("-"), OTHERS, ()), s, rater, ()) for s in scans if s.key not in read]
    return empties


def _changes(
    found: Sequence[Placed], empty: Sequence[EmptyReading], consensus: bool, replace_earlier: bool, faults: list[InputError]
) -> tuple[list[Change], list[Line]]:
    """The change of each scan, and a line for each reading."""
    of_scan: dict[str, list[Placed]] = defaultdict(list)
    for p in found:
        of_scan[p.scan.key].append(p)
    changes, lines = [], []
    for own in of_scan.values():
        scan = own[0].scan
        case = listed(dict.fromkeys(str(p.reading.file) for p in own))
        before = Before(scan, tuple(e.rater for e in empty if (e.subject, e.session) == (scan.subject, scan.session)))
        with _collected(faults):
            readings = by_rater(own)
            change = agreed(before, readings, replace_earlier) if consensus else added(case, before, readings, replace_earlier)
            changes.append(change)
            lines += [_line(p, "compared" if consensus else _became(change)) for p in own]
            if consensus:
                name = "+".join(sorted(change.readings))
                lines.append(
                    Line("-", "consensus", scan.subject, scan.session, name, len(change.rows) or change.there, _became(change))
                )
    return changes, lines


def _line(p: Placed, becomes: str) -> Line:
    becomes = f"{becomes}; {p.reading.note}" if p.reading.note else becomes
    return Line(str(p.reading.file), p.reading.form, p.scan.subject, p.scan.session, p.rater, len(p.annotations), becomes)


def _became(change: Change) -> str:
    if change.empty:
        return "read, nothing found"
    labels = [r.label for r in change.rows]
    parts = [f"{labels.count(label)} {label}" for label in dict.fromkeys(labels)]
    return ", ".join(parts + ([f"{change.there} already there"] if change.there else [])) or "already there"


def _write(dataset: Path, changes: Sequence[Change]) -> None:
    """Write the raters' own files, then annotations.csv; none of them if it would not change."""
    for rater in sorted({rater for change in changes for rater in change.readings}):
        _write_reading(dataset, rater, [c for c in changes if rater in c.readings])
    rows, empty = [r for c in changes for r in c.rows], [e for c in changes for e in c.empty]
    drop = {(c.scan.subject, c.scan.session, rater) for c in changes for rater in c.drop}
    if rows or empty or drop:
        update_annotations(dataset / ANNOTATIONS, rows, empty, drop)


def reading_file(dataset: Path, rater: str) -> Path:
    """Where a rater's own marks are kept."""
    return dataset / READINGS / f"rater-{re.sub('[^A-Za-z0-9]+', '', rater) or 'unnamed'}.csv"


def _write_reading(dataset: Path, rater: str, changes: Sequence[Change]) -> None:
    file = reading_file(dataset, rater)
    before = read_readings(file) if file.is_file() else Readings([], [])
    scans = {(c.scan.subject, c.scan.session) for c in changes}

    def is_kept(reading: Annotation | EmptyReading) -> bool:
        return reading.rater != rater or (reading.subject, reading.session) not in scans

    marks = [a for a in before.annotations if is_kept(a)] + [m for c in changes for m in c.readings[rater]]
    empty = [e for e in before.empty if is_kept(e)]
    empty += [EmptyReading(c.scan.subject, c.scan.session, rater) for c in changes if not c.readings[rater]]
    after = Readings(sorted(marks, key=_order), sorted(empty, key=_order))
    if after != before:
        write_annotations(file, after.annotations, after.empty)


def _order(reading: Annotation | EmptyReading) -> tuple:
    return reading.subject, reading.session, reading.rater, getattr(reading, "centre_mm", ())


@contextmanager
def _collected(faults: list[InputError]) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        faults.append(error)


def _raise_all(dataset: Path, faults: Sequence[InputError]) -> None:
    """Raise what was collected as one error. Faults that differ by what was got in one file, or by the file alone, are one."""
    of_file: dict[tuple[str, str, str, str], list[InputError]] = defaultdict(list)
    for error in faults:
        of_file[error.code, error.case, error.expected, error.remedy].append(error)
    alike: dict[tuple[str, str, str, str], list[InputError]] = defaultdict(list)
    for same in of_file.values():
        error, got = same[0], listed(dict.fromkeys(e.got for e in same))
        alike[error.code, error.expected, got, error.remedy].append(error)
    merged = [
        InputError(error.code, listed([e.case for e in errors]), error.expected, got, error.remedy)
        for (_, _, got, _), errors in alike.items()
        for error in errors[:1]
    ]
    if len(merged) == 1:
        raise merged[0]
    if merged:
        raise joined(merged, dataset, "usable marks", "correct all of these")
