"""Which scan of a dataset a reading belongs to, and where its marks lie there."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.importing.file_names import LABEL_WORDS, LAST_WORDS, ROLES, read_name
from cmb_models.importing.identity import OF_FILES, Patient, one_spelling
from cmb_models.importing.marks.reading import LPS, VOXEL0, VOXEL1, Grid, Mark, Reading, listed
from cmb_models.io.annotations import Annotation
from cmb_models.io.nifti import SAME_PLACE_MM
from cmb_models.volume import Volume, corners_apart_mm, index_from_world, world_from_index

ID_LETTERS = 5  # of an ID that is looked for inside names: shorter ones may be anything
DECIMALS = 4  # of mm, as annotations.csv has them
SESSION = re.compile(r"(?<![A-Za-z0-9])ses-([A-Za-z0-9-]+)", re.IGNORECASE)
LABELLED = re.compile(r"sub-[a-z0-9]", re.IGNORECASE)
FIRST = "ses-01"
PART = re.compile(r"[A-Za-z]+-[A-Za-z0-9]+")  # of a BIDS name, such as run-1
WORDS = LABEL_WORDS | set(LAST_WORDS).union(*ROLES.values())  # what may follow a subject: which image it is
STRAY = re.compile(r"([_ ]\d+| ?\(\d+\))$")
NOBODY: Mapping[str, Patient] = MappingProxyType({})


@dataclass(frozen=True)
class Placed:
    """A reading at its scan, in scanner RAS mm. rater: the reading's, or that of the options."""

    reading: Reading
    scan: ScanFile
    rater: str
    annotations: tuple[Annotation, ...]


def scan_of(reading: Reading, scans: Sequence[ScanFile], patients: Mapping[str, Patient] = NOBODY) -> ScanFile:
    """The scan that a reading belongs to, by the subject and session that it names, or else by its file's name and folders.

    Args:
        reading: The reading.
        scans: Those of the dataset.
        patients: Those of the key file of an import, by subject: a reading may have the names that they had before it.

    Raises:
        InputError: If there is none, or it may be several.
    """
    file, subjects = reading.file, sorted({s.subject for s in scans})
    name = " ".join(filter(None, (reading.subject, reading.session)))
    texts = [reading.subject] if reading.subject else [file.name, *_folders(reading)]
    subject, former = _subject(texts, bool(reading.subject), patients, subjects)
    if not subject:
        expected = f"a subject of the dataset ({listed(subjects)})" + (", or its patient's ID" if patients else "")
        remedy = "correct the name, or import the scan first" + (
            "" if patients else ", or pass the key file of its import with --key"
        )
        if not reading.subject and not any(map(LABELLED.match, texts)):
            remedy = "name it in the file's or its folder's name, with --subject or --column subject=NAME"
        raise InputError("marks-unmatched", file, expected, name or "none", remedy)
    found = [s for s in scans if s.subject == subject]
    sessions = [s.session for s in found]
    places = dict.fromkeys([*texts, file.name, *_folders(reading)])
    named = reading.session or next((f"ses-{match[1]}" for text in places if (match := SESSION.search(text))), "")
    if former:
        named = named or read_name(_stem(texts[0]), (), "").session
        studies = patients[subject].sessions
        labels = {label for name in (named, f"ses-{named}") if (label := studies.get(name)) is not None} or {named}
        found = [s for s in found if not named or s.session in labels]
    elif named:
        label = _named(named, "ses-", sessions)
        # `cmb import` numbers the sessions after the first one, which has no name, from ses-02.
        is_first = not label and len(found) > 1 and bool(_named(named, "ses-", [FIRST]))
        found = [s for s in found if s.session == label and (label or is_first)]
    if not named and reading.names_sessions:
        found = [s for s in found if not s.session] or found
    if len(found) != 1:
        unnamed = "its only one, without a name" if len(sessions) == 1 else f"{FIRST} for the one without a name"
        expected = f"a session of {subject} ({listed(label or unnamed for label in sessions)})"
        remedy = "name it in a column, the file's name or --session"
        raise InputError("marks-unmatched", f"{file}, {name}" if name else file, expected, named or "none", remedy)
    return found[0]


def stray_number(reading: Reading, scan: ScanFile, patients: Mapping[str, Patient] = NOBODY) -> str:
    """The number behind the subject in a file's name, as of a second file or a copy: _2 of sub-001_2.fcsv; "" if there is none.

    It may mean a session, but of a subject with several of them `scan_of` refuses the file.
    """
    stem = _stem(reading.file.name)
    if scan.session or reading.subject or not (match := STRAY.search(stem)):
        return ""
    named, _ = _subject([stem[: match.start()]], False, patients, [scan.subject])
    return match[0].strip() if named else ""


def _folders(reading: Reading) -> list[str]:
    """The folders of a reading's file from the nearest on: to the source, or as the file was named. Others are none of ours."""
    file, source = reading.file, reading.source
    if source is not None and source != file:
        return [*reversed(file.relative_to(source).parent.parts), source.resolve().name]
    return [] if file.is_absolute() else [*reversed(file.parent.parts)]


def _subject(texts: Sequence[str], is_given: bool, patients: Mapping[str, Patient], subjects: Collection[str]) -> tuple[str, bool]:
    """The subject of the first text that names one, "" if none does, and whether by its name before the import.

    Args:
        texts: A file's name and its folders, or the subject that a table or an option gives.
        is_given: Whether it is the latter, all of which must be understood.
        patients: Those of the import of the scans.
        subjects: Those of the dataset.
    """
    first = _stem(texts[0])
    for text in texts:  # from the file outwards
        if found := _given(text, subjects) if is_given else _inside(text, subjects):
            return found, False
        # A number as a file's name may be anything, so that a folder's name counts before it.
        if text == texts[0] and (is_given or not first.isdecimal()) and (found := _named(first, "sub-", subjects)):
            return found, False
        if found := _former(text, patients, subjects) or ("" if is_given else _former_inside(text, patients, subjects)):
            return found, True
        if LABELLED.match(text):  # a folder further out would say another
            return "", False
    return _named(first, "sub-", subjects), False


def _given(text: str, subjects: Collection[str]) -> str:
    """The subject that a table's cell names, such as sub-001_ses-01_swi.nii.gz; "" if a part of it is not understood."""
    folders, _, name = text.replace("\\", "/").rpartition("/")
    first, *rest = _stem(name).split("_")
    is_whole = all(PART.fullmatch(part) or part.lower() in WORDS for part in rest)
    return (_named(first, "sub-", subjects) if is_whole else "") or _inside(folders, subjects)


def _former(text: str, patients: Mapping[str, Patient], subjects: Collection[str]) -> str:
    """The subject of a patient whose name before the import is a text, or what `cmb import scans` reads in it; or ""."""
    names: dict[str, list[str]] = {}
    for subject, patient in patients.items():
        names.setdefault(one_spelling(patient.identity).removeprefix(OF_FILES), []).append(subject)
    stem = _stem(text)
    first = stem.split("_")[0]  # a number at a name's beginning may be anything
    for name in (text, stem, read_name(stem, (), "").subject, "" if first.isdecimal() else first):
        spellings = {name, one_spelling(f"{OF_FILES}{name}").removeprefix(OF_FILES)} - {""}
        found = {subject for spelling in spellings for subject in _called(spelling, names)}
        if len(found) == 1 and found <= {*subjects}:
            return found.pop()
    return ""


def _called(name: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """The subjects of a name. Spreadsheets make 123 of 00123, so that a number without zeros before it may be any of those."""
    found = list(names.get(name, ()))
    if not name.isdecimal() or (found and name.startswith("0")):
        return found
    same = (owners for other, owners in names.items() if other.isdecimal() and other.lstrip("0") == name.lstrip("0"))
    return [subject for owners in same for subject in owners]


def _former_inside(text: str, patients: Mapping[str, Patient], subjects: Collection[str]) -> str:
    """The subject of the one patient whose ID stands in a text, such as a folder `Smith 0012345`; "" if none or several do."""
    of_id = {p.identity: s for s, p in patients.items() if len(p.identity) >= ID_LETTERS and re.search("[0-9]", p.identity)}
    ids = [i for i in of_id if not i.startswith(OF_FILES) and _inside(text, [i])]
    return of_id[ids[0]] if len(ids) == 1 and of_id[ids[0]] in subjects else ""


def rater_in(name: str, source: Path, patients: Mapping[str, Patient]) -> str:
    """The rater whom a source's name names, without the subject and session in it: neither is the rater's, nor for derivatives.

    Raises:
        InputError: If it has a name that a patient had before the import, or nothing is left of it.
    """
    words = set(_words(name))
    former = [set(_words(p.identity.removeprefix(OF_FILES))) for p in patients.values()]
    is_patients = any(_tells(own & words) or (own <= words and _tells({"".join(own)})) for own in former)
    left = re.sub(r"(?<![A-Za-z0-9])(sub|ses)-[A-Za-z0-9]+", "", name, flags=re.IGNORECASE).strip("_-. ")
    if is_patients or not left:
        got = "the name of a patient before the import" if is_patients else "that of a scan alone"
        remedy = "name the raters in a column `rater`, or pass a folder of each rater, named by the rater"
        raise InputError("marks-option", source, "a name of the rater for --consensus", got, remedy)
    return left


def _tells(words: Collection[str]) -> bool:
    """Whether one of some words can hardly be a rater's initials or number."""
    return any(len(word) > (3 if word.isdecimal() else 2) for word in words)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stem(name: str) -> str:
    """A file's name without its suffix."""
    return re.sub(r"(\.nii\.gz|\.mrk\.json|\.[a-z]{3,4})$", "", name, flags=re.IGNORECASE)


def _named(text: str, prefix: str, names: Collection[str]) -> str:
    """The one of `names` that a text is, with or without its prefix, signs and leading zeros; "" if none or several."""
    tries: tuple[Callable[[str], bool], ...] = (
        lambda name: name == text or name == f"{prefix}{text}",
        lambda name: _plain(name.removeprefix(prefix)) == _plain(text.removeprefix(prefix)),
        # Spreadsheets make 1 of 001.
        lambda name: text.isdecimal() and name.removeprefix(prefix).isdecimal() and int(name.removeprefix(prefix)) == int(text),
    )
    for is_name in tries:
        if found := [name for name in names if name and is_name(name)]:
            return found[0] if len(found) == 1 else ""
    return ""


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def _inside(text: str, names: Iterable[str]) -> str:
    """The longest of `names` in a text, not preceded by a letter or digit, nor followed by one or by a hyphen; "" for none."""
    found = [n for n in names if n and re.search(rf"(?<![A-Za-z0-9]){re.escape(n)}(?![A-Za-z0-9-])", text)]
    return max(found, key=len, default="")


def placed(reading: Reading, scan: ScanFile, volume: Volume, rater: str) -> Placed:
    """A reading with its marks in scanner RAS mm.

    Args:
        reading: The reading.
        scan: Its scan.
        volume: The scan as stored, to which voxel indices and masks belong.
        rater: Who read it.

    Raises:
        InputError: If a mask is on another grid than the scan, or a mark has an invalid diameter or lies outside the scan.
    """
    if reading.grid is not None:
        _require_grid(reading.file, reading.grid, Grid(volume.data.shape, volume.affine))
    rows = tuple(_row(mark, scan, volume.affine, rater) for mark in reading.marks)
    index = np.rint(index_from_world(np.array([r.centre_mm for r in rows]), volume.affine))
    outside = ((index < 0) | (index >= volume.data.shape)).any(axis=1)
    if outside.any():
        first = reading.marks[int(np.argmax(outside))]
        got = f"{int(outside.sum())} of {len(rows)} outside {scan.path.name}, the first at {first.position} read as {first.frame}"
        remedy = "pass the --frame they are in, or name the right scan"
        raise InputError("annotation-outside", f"{reading.file}, {scan.key}", "marks inside their scan", got, remedy)
    return Placed(reading, scan, rater, rows)


def _row(mark: Mark, scan: ScanFile, affine: np.ndarray, rater: str) -> Annotation:
    x, y, z, diameter_mm = (round(mm, DECIMALS) for mm in (*position_mm(mark, affine), mark.diameter_mm))
    return Annotation(scan.subject, scan.session, x, y, z, diameter_mm, mark.label, rater, mark.region)


def position_mm(mark: Mark, affine: np.ndarray) -> tuple[float, float, float]:
    """Where a mark lies in scanner RAS mm. affine: of its scan as stored."""
    x, y, z = mark.position
    if mark.frame in (VOXEL0, VOXEL1):
        first = 1 if mark.frame == VOXEL1 else 0
        x, y, z = world_from_index(np.array([[x - first, y - first, z - first]]), affine)[0].tolist()
    return (-x, -y, z) if mark.frame == LPS else (x, y, z)


def _require_grid(file: Path, mask: Grid, scan: Grid) -> None:
    mask, scan = mask.to_ras(), scan.to_ras()  # one grid may be stored in several orders
    apart = corners_apart_mm(mask.affine, scan.affine, scan.shape)
    if mask.shape != scan.shape or apart > SAME_PLACE_MM:
        shapes = [" x ".join(map(str, grid.shape)) for grid in (mask, scan)]
        got = f"{shapes[0]} voxels for {shapes[1]}" if mask.shape != scan.shape else f"corners up to {apart:.0f} mm apart"
        remedy = "resample the mask to the scan (nearest neighbour), or name the right scan"
        raise InputError("marks-grid", file, "a mask on its scan's grid", got, remedy)
