"""Images of a cohort's scan: NIfTI files, on disk or in object storage, or the SWI and its phase in a folder of DICOM files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cmb_models.cohort.manifest import CohortScan
from cmb_models.cohort.objects import fetched
from cmb_models.errors import InputError
from cmb_models.importing.dicom import folder as dicom_folder
from cmb_models.outputs import images as outputs_images
from cmb_models.volume import Volume


def require_readers(scans: Iterable[CohortScan]) -> None:
    """Raise InputError if there are folders of DICOM files among the scans and the packages that read them are missing."""
    folder = next((s.path for s in scans if s.is_folder), None)
    if isinstance(folder, Path):
        dicom_folder.require_readers(folder)


def read_images(scan: CohortScan, requires_phase: bool) -> tuple[Volume, Volume | None]:
    """A scan and, where the release uses it, its phase image.

    Args:
        scan: From the list.
        requires_phase: Whether the phase image is read; else None is returned for it.

    Returns:
        The volumes (I, J, K) as stored; of DICOM series, as dcm2niix orders them.

    Raises:
        InputError: If the images cannot be used. It names the path of the list, and nothing that DICOM headers say of the patient.
    """
    if isinstance(scan.path, str):
        return _read_objects(scan.path, scan.phase, requires_phase)
    # read_manifest refuses URLs of phase images here
    images = outputs_images.read_images(scan.path, None if scan.phase is None else Path(scan.phase), requires_phase)
    return images.swi, images.phase


def _read_objects(url: str, phase: Path | str | None, requires_phase: bool) -> tuple[Volume, Volume | None]:
    """As `read_images`, of a URL; its phase image has to be named, by a URL too or by a path."""
    if requires_phase and phase is None:
        remedy = "name the phase image in the column phase"
        raise InputError("phase-missing", url, "a phase image, which the release uses", "none", remedy)
    wanted = [url, phase] if requires_phase and isinstance(phase, str) else [url]
    with fetched(wanted) as files:
        local = phase if isinstance(phase, Path) else files[-1]
        try:
            images = outputs_images.read_images(files[0], local, requires_phase)
        except InputError as error:  # names the temporary file
            raise InputError(error.code, url, error.expected, error.got, error.remedy) from error
        return images.swi, images.phase
