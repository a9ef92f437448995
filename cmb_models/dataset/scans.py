"""What a detector is given, a path, a nibabel image or a Volume, as a Volume.

Files with neither qform nor sform are opened too: something can be found in them, only not in millimetres.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nibabel.spatialimages import SpatialImage

from cmb_models.dataset.layout import read_phase
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume, volume_of
from cmb_models.volume import ScanLike, Volume

log = logging.getLogger(__name__)


def open_scan(scan: ScanLike, case: str | None = None) -> tuple[Volume, str]:
    """A scan as a Volume, and its name in error messages.

    Args:
        scan: Path of a NIfTI file, a nibabel image, or a Volume, which is returned as it is.
        case: The name; the file's name if None, or "scan" where there is no file.

    Raises:
        InputError: If the scan cannot be read, or is none of these. A file is named by its path.
    """
    if isinstance(scan, Volume):
        return scan, case or "scan"
    if isinstance(scan, SpatialImage):
        file = scan.get_filename()
        case = case or (Path(file).name if file else "scan")
        return volume_of(scan, case, needs_place=False), case
    if isinstance(scan, str | os.PathLike):
        return read_volume(Path(scan), needs_place=False), case or Path(scan).name
    raise InputError(
        "scan-file", case or "scan", "a path, a nibabel image or a Volume", f"a {type(scan).__name__}", "pass one of these"
    )


def open_phase(phase: ScanLike | None, scan: ScanLike, case: str, required: bool) -> Volume | None:
    """The phase image of a scan as a Volume; None where it is not required, or missing for a scan without a file.

    Args:
        phase: The phase image; None for the file next to `scan` where that is a path.
        scan: The SWI as it was given.
        case: The scan's name in error messages.
        required: Whether the release requires phase; if not, nothing is opened.

    Raises:
        InputError: If the phase image cannot be read.
    """
    if not required:
        if phase is not None:
            log.info("%s: its phase image is ignored, since the release does not use phase", case)
        return None
    if isinstance(scan, str | os.PathLike) and (phase is None or isinstance(phase, str | os.PathLike)):
        return read_phase(Path(scan), None if phase is None else Path(phase), needs_place=False)
    return None if phase is None else open_scan(phase, f"phase image of {case}")[0]
