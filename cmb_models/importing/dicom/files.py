"""Which files are DICOM, by their first bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PREAMBLE, PREFIX = 128, b"DICM"  # bytes at the beginning of a file


def dicom_files(files: Iterable[Path]) -> list[Path]:
    """Those of the files that begin as DICOM files do; nothing else of them is read. Some old ones have no such beginning."""

    def is_dicom(file: Path) -> bool:
        try:
            with file.open("rb") as stream:
                return stream.read(PREAMBLE + len(PREFIX))[PREAMBLE:] == PREFIX
        except OSError:  # reported when the file is read
            return False

    return [file for file in files if is_dicom(file)]
