"""What a withdrawal removes from data/raw: a subject's files and rows, and copies of the scans under other names."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.dataset.layout import ANNOTATIONS, require_checked_out, subject_and_session
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of
from cmb_models.importing.marks.add import READINGS
from cmb_models.io.annotations import rows_without
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.workspace.paths import INDEX, RAW

SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Target:
    """What is removed from one dataset: a subject, or one session of it ("" where it has no sessions). session None: all."""

    dataset: str
    subject: str
    session: str | None = None

    def holds(self, path: Path) -> bool:
        """Whether a file, by its path in the dataset, belongs to it, also below derivatives/."""
        if self.subject not in (*path.parts[:-1], re.split(r"[_.]", path.name)[0]):
            return False
        sessions = [part for part in path.parts[:-1] if part.startswith("ses-")]
        return self.session is None or (self.session in sessions if self.session else not sessions)

    def holds_row(self, subject: str, session: str) -> bool:
        return subject == self.subject and self.session in (None, session)

    def __str__(self) -> str:
        return "/".join(part for part in (self.dataset, self.subject, self.session) if part)


@dataclass(frozen=True)
class RemovedFile:
    """A file to remove. path: in the workspace. content_sha256: of a readable scan, else ""."""

    path: str
    sha256: str
    content_sha256: str = ""

    @property
    def identity(self) -> str:
        return self.content_sha256 or self.sha256


@dataclass(frozen=True)
class Plan:
    """What a withdrawal removes. rows: by table, as its path in the workspace. others: subjects with a copy and further scans."""

    subject: str
    targets: tuple[Target, ...]
    files: tuple[RemovedFile, ...]
    rows: Mapping[str, int]
    others: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(sorted({target.dataset for target in self.targets}))

    @property
    def hashes(self) -> tuple[str, ...]:
        """Everything that identifies one of its files in a lineage."""
        return tuple(sorted({h for file in self.files for h in (file.sha256, file.content_sha256) if h}))

    @property
    def copies(self) -> tuple[Target, ...]:
        """Targets under another name than the subject's."""
        return tuple(target for target in self.targets if target.subject != self.subject)


def make_plan(workspace: Path, subject: str, datasets: Sequence[str] = ()) -> Plan:
    """Find everything of a subject in data/raw.

    Args:
        workspace: The workspace.
        subject: Such as "sub-001".
        datasets: Where it is the patient; may be empty if one dataset has a subject of this name.

    Raises:
        InputError: If no dataset has the subject, several do and none is named, or a dataset is not checked out.
    """
    folders = _datasets(workspace)
    named = _named(folders, subject, datasets)
    scans = _scans(workspace, folders)
    targets, others = {Target(dataset, subject) for dataset in named}, set()
    own = {file.identity for (dataset, s, _), files in scans.items() for file in files if Target(dataset, s) in targets}
    with_copies = {at: [file.identity in own for file in files] for at, files in scans.items() if Target(*at[:2]) not in targets}
    for (dataset, other, session), are_copies in with_copies.items():
        if any(are_copies):
            is_whole = all(all(flags) for at, flags in with_copies.items() if at[:2] == (dataset, other))
            targets.add(Target(dataset, other, None if is_whole else session))
            others |= set() if is_whole else {f"{dataset}/{other}"}
    contents = {file.path: file for files in scans.values() for file in files}
    ordered = tuple(sorted(targets, key=str))
    return Plan(
        subject, ordered, _files(workspace, folders, ordered, contents), _rows(workspace, folders, ordered), tuple(sorted(others))
    )


def _datasets(workspace: Path) -> dict[str, Path]:
    """The datasets' folders by name. Raises InputError if one is under DVC and not checked out: it may hold the patient too."""
    raw = workspace / RAW
    require_checked_out(raw)
    return {folder.name: folder for folder in sorted(raw.glob("*")) if folder.is_dir() and not folder.name.startswith(".")}


def subjects_of(folder: Path) -> set[str]:
    """The subjects of a dataset that have a folder or rows."""
    subjects = {p.name for p in folder.glob("sub-*") if p.is_dir()}

    def note(subject: str, session: str) -> bool:
        subjects.add(subject)
        return False

    if (folder / ANNOTATIONS).is_file():
        rows_without(folder / ANNOTATIONS, note)
    return subjects - {""}


def _named(folders: Mapping[str, Path], subject: str, datasets: Sequence[str]) -> tuple[str, ...]:
    """The datasets that have the subject, of those that were named."""
    known = {name: subjects_of(folder) for name, folder in folders.items()}
    asked = tuple(datasets) or tuple(known)
    found = tuple(name for name in asked if subject in known.get(name, ()))
    if (datasets and len(found) < len(datasets)) or not found:
        absent = [name for name in datasets if name not in found]
        near = sorted({s for name in asked for s in known.get(name, ())})
        close = difflib.get_close_matches(subject, near, n=SHOWN) or near[:SHOWN]
        got = f"none in {', '.join(absent or asked) or RAW.as_posix()}" + (f"; names like it: {', '.join(close)}" if close else "")
        raise InputError("subject-unknown", subject, f"a subject in {RAW}", got, "check the name and --dataset")
    if not datasets and len(found) > 1:
        remedy = "name the patient's dataset by --dataset, or each of them if it is one patient"
        raise InputError("option-count", subject, "a subject of one dataset", f"one in each of {', '.join(found)}", remedy)
    return found


def _scans(workspace: Path, folders: Mapping[str, Path]) -> dict[tuple[str, str, str], list[RemovedFile]]:
    """All scans with their hashes, by dataset, subject and session. Contents that the index has are not computed again."""
    known: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = {e["path"]: (e["sha256"], e["content_sha256"]) for e in read_json(workspace / INDEX)["scans"]}
    found: dict[tuple[str, str, str], list[RemovedFile]] = {}
    for name, folder in folders.items():
        for file in _files_in(folder):
            if at := subject_and_session(file.relative_to(folder).as_posix()):
                path, sha256 = file.relative_to(workspace).as_posix(), sha256_of(file)
                content = known[path][1] if known.get(path, ("",))[0] == sha256 else _content(file)
                found.setdefault((name, *at), []).append(RemovedFile(path, sha256, content))
    return found


def _content(file: Path) -> str:
    try:
        return content_sha256(read_volume(file))
    except InputError:
        return ""


def _files_in(folder: Path) -> list[Path]:
    """All files below a folder, hidden ones and links too; links to folders are not followed."""
    return sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file())


def _files(
    workspace: Path, folders: Mapping[str, Path], targets: Sequence[Target], scans: Mapping[str, RemovedFile]
) -> tuple[RemovedFile, ...]:
    found = []
    for name in sorted({target.dataset for target in targets}):
        for file in _files_in(folders[name]):
            if any(t.dataset == name and t.holds(file.relative_to(folders[name])) for t in targets):
                path = file.relative_to(workspace).as_posix()
                found.append(scans.get(path) or RemovedFile(path, sha256_of(file) if file.is_file() else ""))
    return tuple(found)


def _rows(workspace: Path, folders: Mapping[str, Path], targets: Sequence[Target]) -> dict[str, int]:
    tables = [table for name in sorted({target.dataset for target in targets}) for table in _tables(folders[name])]
    counts = {table.relative_to(workspace).as_posix(): rows_left(workspace, table, targets)[1] for table in tables}
    return {table: number for table, number in counts.items() if number}


def _tables(dataset: Path) -> list[Path]:
    """annotations.csv, and the readers' own marks that `cmb import marks` keeps."""
    return [table for table in (dataset / ANNOTATIONS, *sorted((dataset / READINGS).glob("*.csv"))) if table.is_file()]


def rows_left(workspace: Path, table: Path, targets: Sequence[Target]) -> tuple[str, int]:
    """The text of a dataset's table without the targets' rows, and their number. ("", 0) if it is not there."""
    dataset = table.relative_to(workspace / RAW).parts[0]
    own = [target for target in targets if target.dataset == dataset]
    if not table.is_file():
        return "", 0
    return rows_without(table, lambda subject, session: any(t.holds_row(subject, session) for t in own))
