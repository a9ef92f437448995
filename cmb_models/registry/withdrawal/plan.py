"""What a withdrawal removes from data/raw: a subject's files and rows, and copies of the scans under other names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from cmb_models.dataset.layout import ANNOTATIONS, require_checked_out, subject_and_session
from cmb_models.errors import InputError
from cmb_models.importing.marks.merge import READINGS
from cmb_models.io.annotations import rows_without
from cmb_models.registry.withdrawal.contents import Image, file_sha256, images_below, walk
from cmb_models.workspace.paths import RAW

SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Target:
    """What is removed from one dataset: a subject, or one session of it ("" where it has no sessions). session None: all."""

    dataset: str
    subject: str
    session: str | None = None

    def names(self, path: Path) -> bool:
        """Whether a file is the subject's by its path in the dataset, also below derivatives/: by a folder, else by its name."""
        folders = [part for part in path.parts[:-1] if part.startswith("sub-")]
        return self.subject in (folders or re.split(r"[_.]", path.name)[:1])

    def holds(self, path: Path) -> bool:
        """Whether a file of the dataset belongs to it. Of a session, only files that are plainly this session's."""
        if not self.names(path):
            return False
        sessions = sessions_of(path)
        if self.session:
            return sessions == {self.session}
        # Without a session: images in the subject's folder, not the subject's own tables or derivatives.
        return self.session is None or (not sessions and len(path.parts) > 2 and path.parts[0] == self.subject)

    def holds_row(self, subject: str, session: str) -> bool:
        return subject == self.subject and self.session in (None, session)

    def __str__(self) -> str:
        return "/".join(part for part in (self.dataset, self.subject, self.session) if part)


def sessions_of(path: Path) -> set[str]:
    """The sessions that the folders and the name of a file name."""
    return {part for part in (*path.parts[:-1], *re.split(r"[_.]", path.name)) if part.startswith("ses-")}


@dataclass(frozen=True)
class RemovedFile:
    """A file to remove.

    Attributes:
        path: In the workspace.
        sha256: "" of an empty file, an image whose voxels are all alike, and a link to a folder or to nothing: they say nobody's.
        content_sha256: Of a readable scan whose voxels are not all alike, else "".
        real: What a link names, which is not removed; "" of other files.
    """

    path: str
    sha256: str
    content_sha256: str = ""
    real: str = ""


@dataclass(frozen=True)
class Plan:
    """What a withdrawal removes.

    Attributes:
        subject: The subject that is withdrawn.
        targets: Subjects and sessions that are removed.
        files: Files that are removed, copies of a scan outside the targets too.
        rows: Number of rows by table, as its path in the workspace.
        others: Subjects that had a copy and have further scans, which stay.
        behind: The patient's files behind linked folders, which stay where they are.
        alike: Images of the same bytes as a removed one, whose content does not identify a patient; they stay.
        linked: What a table with rows is a link to, by its path: it is replaced by a file without the rows.
    """

    subject: str
    targets: tuple[Target, ...]
    files: tuple[RemovedFile, ...]
    rows: Mapping[str, int]
    others: tuple[str, ...] = ()
    behind: tuple[RemovedFile, ...] = ()
    alike: tuple[str, ...] = ()
    linked: Mapping[str, str] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        of_files = {parts[len(RAW.parts)] for f in self.files if len(parts := Path(f.path).parts) > len(RAW.parts) + 1}
        return tuple(sorted({target.dataset for target in self.targets} | of_files))

    @property
    def seen(self) -> tuple[RemovedFile, ...]:
        """All files of the patient, also those that cannot be removed."""
        return (*self.files, *self.behind)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Everything that identifies one of its files in a lineage."""
        return tuple(sorted({h for file in self.seen for h in (file.sha256, file.content_sha256) if h}))

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
        InputError: If no dataset has the subject, several do and none is named, a dataset is not checked out, or a folder cannot
            be read.
    """
    folders = _datasets(workspace)
    named = _named(folders, subject, datasets)
    images = images_below(workspace)
    scans = _scans(workspace, images)
    targets, others = {Target(dataset, subject) for dataset in named}, set()
    own = {content for (dataset, s, _), contents in scans.items() for content in contents if Target(dataset, s) in targets} - {""}
    with_copies = {at: [content in own for content in contents] for at, contents in scans.items() if Target(*at[:2]) not in targets}
    for (dataset, other, session), are_copies in with_copies.items():
        is_whole = all(all(flags) for at, flags in with_copies.items() if at[:2] == (dataset, other))
        if all(are_copies):
            targets.add(Target(dataset, other, None if is_whole else session))
        if any(are_copies) and not is_whole:
            others.add(f"{dataset}/{other}")
    ordered = tuple(sorted(targets, key=str))
    files, behind = _files(workspace, ordered, images, own)
    removed = {file.sha256 for file in (*files, *behind)} - {""}
    kept = images.keys() - {workspace / file.path for file in (*files, *behind)}
    alike = sorted(str(f.relative_to(workspace)) for f in kept if images[f].sha256 in removed and not images[f].is_constant)
    rows = _rows(workspace, folders, ordered)
    linked = {table: str((workspace / table).resolve()) for table in rows if (workspace / table).is_symlink()}
    return Plan(subject, ordered, files, rows, tuple(sorted(others)), behind, tuple(alike), linked)


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


def _scans(workspace: Path, images: Mapping[Path, Image]) -> dict[tuple[str, str, str], list[str]]:
    """The contents of all scans, by dataset, subject and session."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for file, image in images.items():
        dataset, _, path = file.relative_to(workspace / RAW).as_posix().partition("/")
        if at := subject_and_session(path):
            found.setdefault((dataset, *at), []).append(image.content_sha256)
    return found


def _files(
    workspace: Path, targets: Sequence[Target], images: Mapping[Path, Image], own: Set[str]
) -> tuple[tuple[RemovedFile, ...], tuple[RemovedFile, ...]]:
    """The files of the targets and copies of the patient's scans; those that are removed, and those behind linked folders."""
    found: dict[bool, list[RemovedFile]] = {False: [], True: []}
    for file, is_behind in walk(workspace / RAW):
        dataset, *parts = file.relative_to(workspace / RAW).parts
        image = images.get(file)
        is_held = bool(parts) and any(t.dataset == dataset and t.holds(Path(*parts)) for t in targets)
        is_copy = image is not None and image.content_sha256 in own
        if is_held or is_copy:
            sha256 = file_sha256(file) if image is None else "" if image.is_constant else image.sha256
            content = image.content_sha256 if image and is_copy else ""
            real = str(file.resolve()) if is_behind or file.is_symlink() else ""
            found[is_behind].append(RemovedFile(file.relative_to(workspace).as_posix(), sha256, content, real))
    return tuple(found[False]), tuple(found[True])


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
