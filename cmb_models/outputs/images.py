"""The images of a scan, from its file or its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.dataset.layout import read_phase
from cmb_models.importing.dicom.folder import read_scan_folder
from cmb_models.io.nifti import read_volume
from cmb_models.volume import Volume


@dataclass(frozen=True)
class Images:
    """What was read of a scan. files: the DICOM files of the SWI, () of a NIfTI file."""

    swi: Volume
    phase: Volume | None
    files: Sequence[Path] = ()


def read_images(path: Path, phase: Path | None, requires_phase: bool) -> Images:
    """Read a scan.

    Args:
        path: A NIfTI file, or a folder with the DICOM files of one SWI acquisition.
        phase: Its phase image, of the same kind; None for the file next to it, or a series in the same folder.
        requires_phase: Whether the phase image is read.

    Raises:
        InputError: If it cannot be used.
    """
    if path.is_dir():
        found = read_scan_folder(path, phase, requires_phase)
        return Images(found.swi, found.phase, found.files)
    volume = read_volume(path, needs_place=False)
    return Images(volume, read_phase(path, phase, needs_place=False) if requires_phase else None)
