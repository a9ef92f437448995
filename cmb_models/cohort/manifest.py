"""The list of a cohort's scans: a CSV file with a row per scan."""

from __future__ import annotations

import csv
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.cohort.objects import is_url, present
from cmb_models.errors import InputError
from cmb_models.io.nifti import scan_name

SCAN, PHASE, NAME = "scan", "phase", "name"  # columns
SHOWN = 5  # of faults of one kind in a message


@dataclass(frozen=True)
class CohortScan:
    """One scan to process.

    Args:
        number: Its place in the list, from 0.
        name: Unique in the list.
        path: A NIfTI file, or a folder with DICOM series; text is the URL of a NIfTI file in object storage.
        phase: The phase image, of the same kind as `path`; None for the image next to a file, or a series in the same folder.
        is_folder: Whether `path` is a folder.
        place: Folder of a BIDS dataset that it lies in, relative; "" for any other scan.
    """

    number: int
    name: str
    path: Path | str
    phase: Path | str | None = None
    is_folder: bool = False
    place: str = ""


def read_manifest(file: Path) -> list[CohortScan]:
    """Read and check the list of scans, before any is opened.

    Args:
        file: CSV in UTF-8 with the column `scan` (path of a NIfTI file or of a folder with DICOM series, relative to the file's
            folder, or URL of a NIfTI file), and optionally `phase` (the phase image, of the same kind) and `name` (unique; if
            empty, the file's name without ending, or the folder's relative path). Other columns are ignored.

    Returns:
        The scans in the file's order, at least one.

    Raises:
        InputError: If it cannot be read, has no scans, names a scan twice, gives two scans one name, or names files or folders that
            do not exist, faults are counted and the first ones shown; if object storage cannot be reached.
    """
    file = Path(file)
    rows, remedy = _rows(file), "correct the manifest"
    if not rows:
        raise InputError("manifest-invalid", file, "a row for each scan", "none", remedy)
    if without := [f"row {n}" for n, row in enumerate(rows, start=1) if not _cell(row, SCAN)]:
        raise InputError("manifest-invalid", file, "a path in each row", f"{len(without)} without one ({_shown(without)})", remedy)
    kinds: dict[Path | str, str] = {}
    scans = [_scan(n, row, file.parent.absolute(), kinds) for n, row in enumerate(rows)]
    there = present(url for url in kinds if isinstance(url, str))
    kinds |= {url: "file" if url in there else "" for url in kinds if isinstance(url, str)}
    require_sound(scans, kinds, file, remedy)
    return scans


def require_sound(scans: Sequence[CohortScan], kinds: Mapping[Path | str, str], case: Path, remedy: str) -> None:
    """Raise InputError with all faults of a list. kinds: of each path, as of `kind_of`."""
    paths = [p for s in scans for p in (s.path, s.phase) if p is not None]
    faults = {
        "listed twice": _repeated(str(s.path) for s in scans),
        "names used twice": _repeated(s.name for s in scans),
        "not found": [str(p) for p in paths if not kinds[p]],
        "phase images of another kind than their scan": [
            str(s.phase) for s in scans if s.phase is not None and _differ(s.path, s.phase, kinds)
        ],
    }
    if found := [f"{len(which)} {kind} ({_shown(which)})" for kind, which in faults.items() if which]:
        raise InputError("manifest-invalid", case, "each scan once, under a name of its own", "; ".join(found), remedy)


def _differ(path: Path | str, phase: Path | str, kinds: Mapping[Path | str, str]) -> bool:
    """Whether a folder is paired with a file, or a local scan with a URL."""
    return {kinds[path], kinds[phase]} == {"file", "folder"} or (isinstance(path, Path) and isinstance(phase, str))


def kind_of(path: Path) -> str:
    """Whether a path is a "file" or a "folder"; "" if it is not there, or in a folder that cannot be read."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return ""
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else ""


def _rows(file: Path) -> list[dict[str, str | None]]:
    remedy = "write a CSV file with the column scan, one path a row"
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if SCAN not in (reader.fieldnames or ()):
                got = ", ".join(reader.fieldnames or ()) or "none"
                raise InputError("manifest-invalid", file, f"the column {SCAN}", got, remedy)
            return [row for row in reader if any(row.values())]
    except FileNotFoundError as error:
        raise InputError("file-not-found", file, "a list of scans", "no such file", remedy) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("manifest-invalid", file, "a CSV file in UTF-8", str(error), remedy) from error


def _scan(number: int, row: Mapping[str, str | None], folder: Path, kinds: dict[Path | str, str]) -> CohortScan:
    """kinds: the kind of each path is added, and "" for URLs."""
    path, phase = (_place(_cell(row, column), folder) for column in (SCAN, PHASE))
    assert path is not None, "read_manifest refuses rows without one"
    kinds |= {p: kind_of(p) if isinstance(p, Path) else "" for p in (path, phase) if p is not None}
    if isinstance(path, Path) and kinds[path] == "folder":
        own = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        return CohortScan(number, _cell(row, NAME) or own, path, phase, is_folder=True)
    return CohortScan(number, _cell(row, NAME) or scan_name(Path(path)), path, phase)


def _place(cell: str, folder: Path) -> Path | str | None:
    if not cell or is_url(cell):
        return cell or None
    # Joined, not resolved: with a hundred thousand files on a network each look at the disk counts.
    return Path(os.path.normpath(folder / cell))


def _cell(row: Mapping[str, str | None], column: str) -> str:
    """What a row has in a column, empty where it ends before."""
    return (row.get(column) or "").strip()


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _shown(values: Sequence[str]) -> str:
    return ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
