"""The list of a cohort's scans: a CSV file with a row per scan."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.io.nifti import scan_name

SCAN, PHASE, NAME = "scan", "phase", "name"  # columns
SHOWN = 5  # of faults of one kind in a message


@dataclass(frozen=True)
class CohortScan:
    """One scan to look through. number: its place in the manifest, from 0. phase: None for the image next to the scan."""

    number: int
    name: str
    path: Path
    phase: Path | None = None


def read_manifest(file: Path) -> list[CohortScan]:
    """Read and check the list of scans, before any is opened.

    Args:
        file: CSV in UTF-8 with the column `scan` (path, relative to the file's folder), and optionally `phase` (path of the phase
            image) and `name` (unique; the file's name without ending if empty). Other columns are ignored.

    Returns:
        The scans in the file's order, at least one.

    Raises:
        InputError: If it cannot be read, has no scans, names a scan twice, gives two scans one name, or names files that do not
            exist; faults are counted and the first ones shown.
    """
    file = Path(file)
    rows, remedy = _rows(file), "correct the manifest"
    if not rows:
        raise InputError("manifest-invalid", file, "a row for each scan", "none", remedy)
    if without := [f"row {n}" for n, row in enumerate(rows, start=1) if not _cell(row, SCAN)]:
        raise InputError("manifest-invalid", file, "a path in each row", f"{len(without)} without one ({_shown(without)})", remedy)
    scans = [_scan(n, row, file.parent.absolute()) for n, row in enumerate(rows)]
    faults = {
        "listed twice": _repeated(str(s.path) for s in scans),
        "names used twice": _repeated(s.name for s in scans),
        "not found": _missing(scans),
    }
    if found := [f"{len(which)} {kind} ({_shown(which)})" for kind, which in faults.items() if which]:
        raise InputError("manifest-invalid", file, "each scan once, under a name of its own", "; ".join(found), remedy)
    return scans


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


def _scan(number: int, row: Mapping[str, str | None], folder: Path) -> CohortScan:
    # Paths are joined, not resolved: with a hundred thousand files on a network each look at the disk counts.
    path = Path(os.path.normpath(folder / _cell(row, SCAN)))
    phase = _cell(row, PHASE)
    name = _cell(row, NAME) or scan_name(path)
    return CohortScan(number, name, path, Path(os.path.normpath(folder / phase)) if phase else None)


def _cell(row: Mapping[str, str | None], column: str) -> str:
    """What a row has in a column, empty where it ends before."""
    return (row.get(column) or "").strip()


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _missing(scans: Sequence[CohortScan]) -> list[str]:
    """Of scans and phase images: files that are not there, or in a folder that cannot be read, where Path.is_file raises."""
    paths = (p for s in scans for p in (s.path, s.phase) if p is not None)
    return [str(p) for p in paths if not os.path.isfile(p)]  # noqa: PTH113


def _shown(values: Sequence[str]) -> str:
    return ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
