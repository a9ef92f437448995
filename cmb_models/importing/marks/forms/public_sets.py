"""Forms of public datasets: Dou 2016 (.mat), and CSIRO's rCMB and sCMB (Momeni 2021, DOI 10.25919/aegy-ny12; .xlsx).

Their positions are voxel indices of the array as stored. VALDO 2021 has label masks, Yonsei's set tables.
"""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.importing.marks.forms.excel import excel_rows
from cmb_models.importing.marks.forms.matlab import read_matrix
from cmb_models.importing.marks.reading import VOXEL1, Mark, Options, Reading, damaged, position_of
from cmb_models.io.nifti import SUFFIXES, scan_name
from cmb_models.io.tables import faults_by_line

DOU, CSIRO = "dou", "csiro"
CENTRES = "cen"


def read_dou(file: Path, options: Options) -> Reading:
    """Read a .mat file with `cen`, (N, 3) voxel indices. Whether they count from 0 or 1, which is disputed, the options must say.

    Raises:
        InputError: If the file is damaged or has no `cen`, or the options do not say frame and diameter.
    """
    try:
        centres = read_matrix(file, CENTRES)
        if centres.size and centres.shape[1] != 3:
            raise ValueError(f"{CENTRES} of shape {centres.shape}")
        positions = [position_of(centre) for centre in centres.reshape(-1, 3)]
    except ValueError as error:
        raise damaged(file, f".mat (version 5 to 7, with `{CENTRES}`)", error) from error
    frame = options.frame_of(file, "", f"`{CENTRES}`")
    return Reading(file, DOU, tuple(Mark(p, frame, options.diameter_of(file, None), "cmb") for p in positions))


def is_csiro(file: Path) -> bool:
    """Whether an Excel file has rows of a scan's file name and numbers."""
    return any(cells[0].lower().endswith(SUFFIXES) for _, cells in excel_rows(file)[:2])


def read_csiro(file: Path, options: Options) -> list[Reading]:
    """Read an Excel file with one row per scan: its file name, then x, y, z of each mark, counted from 1. Blanks are unused.

    Of several rows of a scan the first counts. A scan without numbers is a reading without marks.

    Raises:
        InputError: If the file is damaged, or the options do not say the diameter; all unreadable rows are listed.
    """
    found: dict[str, Reading] = {}
    repeated: list[str] = []
    faults: list[tuple[int, str]] = []
    frame = options.frame_of(file, "", "its numbers", usual=VOXEL1)
    for line, cells in excel_rows(file):
        name = cells[0]
        if not name.lower().endswith(SUFFIXES):
            if line > 1 or not any(cells):  # the first row may be a header
                faults.append((line, f"{name[:40]!r}, which is no name of a scan"))
            continue
        numbers = [text for text in cells[1:] if text]
        try:
            if len(numbers) % 3:
                raise ValueError(f"{len(numbers)} numbers, which are no triples")
            positions = [position_of(numbers[n : n + 3]) for n in range(0, len(numbers), 3)]
        except ValueError as error:
            faults.append((line, str(error)))
            continue
        if name in found:
            repeated.append(str(line))
            continue
        marks = tuple(Mark(p, frame, options.diameter_of(file, None), "cmb") for p in positions)
        found[name] = Reading(file, CSIRO, marks, subject=scan_name(Path(name)))
    if faults:
        raise InputError("annotations-invalid", file, "readable rows", faults_by_line(faults), "correct these lines")
    readings = list(found.values())
    if repeated and readings:
        readings[0] = Reading(
            file, CSIRO, readings[0].marks, readings[0].subject, note=f"skipped: repeated rows {', '.join(repeated)}"
        )
    return readings
