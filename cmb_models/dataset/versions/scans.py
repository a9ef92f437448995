"""Which scans and other files differ between two versions of the data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmb_models.dataset.layout import subject_and_session
from cmb_models.dataset.versions.version import DataVersion, VersionedFile
from cmb_models.errors import InputError
from cmb_models.io.nifti import SUFFIXES, read_volume, scan_name
from cmb_models.io.scan_id import content_sha256
from cmb_models.volume import Volume, corners_apart_mm

SAME_PLACE_MM = 1e-3  # corners of an image by two affines: more than the rounding of headers
Kind = Literal["added", "removed", "renamed", "voxels changed", "position changed", "saved again", "file changed"]
FileKind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, order=True)
class ScanName:
    """A scan of a version. session: "" for a single one; image: the file's name without suffix."""

    dataset: str
    subject: str
    session: str
    image: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What the rows of annotations.csv name."""
        return self.dataset, self.subject, self.session

    def __str__(self) -> str:
        return "/".join(part for part in self.key if part)


@dataclass(frozen=True)
class ScanChange:
    """A scan that differs. kind: "file changed" where the content of a version is not at hand. before or after may be None."""

    kind: Kind
    before: ScanName | None
    after: ScanName | None


@dataclass(frozen=True)
class FileChange:
    """A file that is no scan, such as a phase image. path: with its dataset."""

    kind: FileKind
    path: str


def scans_of(version: DataVersion) -> dict[ScanName, VersionedFile]:
    """The scans of a version, without its other files."""
    return {
        ScanName(name, *named, scan_name(Path(path))): file
        for name, dataset in version.datasets.items()
        for path, file in sorted(dataset.files.items())
        if (named := subject_and_session(path))
    }


def compare_scans(before: Mapping[ScanName, VersionedFile], after: Mapping[ScanName, VersionedFile]) -> list[ScanChange]:
    """The scans that differ, in the order of their names.

    Scans of the same name are compared by file, then, where both contents are at hand, by voxels and position. The others are
    paired in the same way: such a pair was renamed.
    """
    common = before.keys() & after.keys()
    changes = [
        ScanChange(kind, name, name)
        for name in common
        if before[name].md5 != after[name].md5 and (kind := _difference(before[name], after[name]))
    ]
    removed, added = ({n: f for n, f in side.items() if n not in common} for side in (before, after))
    pairs = _same_scans(removed, added)
    changes += [ScanChange("renamed", old, new) for old, new in pairs.items()]
    changes += [ScanChange("removed", name, None) for name in removed if name not in pairs]
    changes += [ScanChange("added", None, name) for name in added if name not in pairs.values()]
    return sorted(changes, key=lambda change: (change.after or change.before, change.kind))


def _difference(before: VersionedFile, after: VersionedFile) -> Kind:
    one, other = _volume(before), _volume(after)
    if one is None or other is None:
        return "file changed"
    if content_sha256(one) != content_sha256(other):
        return "voxels changed"
    apart = corners_apart_mm(one.affine, other.affine, one.data.shape)
    return "position changed" if apart > SAME_PLACE_MM else "saved again"


def _same_scans(removed: Mapping[ScanName, VersionedFile], added: Mapping[ScanName, VersionedFile]) -> dict[ScanName, ScanName]:
    """The new name of each removed scan that is among the added ones: the same file, else the same voxels."""
    pairs: dict[ScanName, ScanName] = {}
    for identity in (_file_id, _content_id):
        left = {n: f for n, f in removed.items() if n not in pairs}
        free = [(identity(f), n) for n, f in sorted(added.items()) if n not in pairs.values()] if left else []
        for old, file in sorted(left.items()) if free else ():
            own = identity(file)
            match = next((n for other, n in free if own and other == own and n not in pairs.values()), None)
            if match is not None:
                pairs[old] = match
    return pairs


def _file_id(file: VersionedFile) -> str:
    return file.md5


def _content_id(file: VersionedFile) -> str:
    volume = _volume(file)
    return "" if volume is None else content_sha256(volume)


def _volume(file: VersionedFile) -> Volume | None:
    """The scan; None where it is not at hand or cannot be read."""
    if file.path is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        # Named as a scan, which an object of the cache is not.
        link = Path(scratch) / f"scan{SUFFIXES[0]}"
        link.symlink_to(file.path.resolve())
        try:
            return read_volume(link)
        except InputError:
            return None


def compare_files(before: DataVersion, after: DataVersion) -> list[FileChange]:
    """The other files that differ, by path; those that were only renamed are left out."""
    old, new = (_others(version) for version in (before, after))
    changes = [FileChange("changed", path) for path in old.keys() & new.keys() if old[path].md5 != new[path].md5]
    removed, added = ({p: f for p, f in one.items() if p not in other} for one, other in ((old, new), (new, old)))
    renamed = {f.md5 for f in removed.values()} & {f.md5 for f in added.values()} if removed and added else set()
    changes += [FileChange("removed", path) for path, file in removed.items() if not renamed or file.md5 not in renamed]
    changes += [FileChange("added", path) for path, file in added.items() if not renamed or file.md5 not in renamed]
    return sorted(changes, key=lambda change: change.path)


def _others(version: DataVersion) -> dict[str, VersionedFile]:
    return {
        f"{name}/{path}": file
        for name, dataset in version.datasets.items()
        for path, file in dataset.files.items()
        if subject_and_session(path) is None
    }
