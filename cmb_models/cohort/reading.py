"""Images of a cohort's scan: NIfTI files, or series in a folder of DICOM files, of which the SWI and its phase are chosen."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.cohort.manifest import CohortScan
from cmb_models.cohort.objects import fetched
from cmb_models.cohort.servers import read_scan
from cmb_models.errors import InputError
from cmb_models.files import FULL, files_below, no_temporary_room
from cmb_models.io.series_role import PHASE, SWI
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from cmb_models.importing.dicom_series import Stack

# Warnings of pydicom, which hold values such as names, are silenced for the whole process while headers are read.
_HEADERS = threading.Lock()


def require_readers(scans: Iterable[CohortScan]) -> None:
    """Raise InputError if there are folders of DICOM files among the scans and the packages that read them are missing."""
    folder = next((s.path for s in scans if s.is_folder), None)
    missing = [name for name in ("pydicom", "dcm2niix") if importlib.util.find_spec(name) is None]
    if folder is not None and missing:
        remedy = "run pip install 'cmb-models[dicom]'"
        raise InputError("package-missing", folder, "the packages that read DICOM", f"no {' and no '.join(missing)}", remedy)


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
    folder_or_file, own_phase = scan.path, None if scan.phase is None else Path(scan.phase)
    if not scan.is_folder:
        return read_scan(folder_or_file, own_phase, requires_phase)
    try:
        swi, phase = choose(_stacks(folder_or_file, own_phase), folder_or_file)
        if requires_phase and phase is None:
            remedy = "add the phase series to the folder, or its folder as phase to the manifest"
            raise InputError("phase-missing", scan.path, "a phase series on the grid of its SWI", "none", remedy)
        return swi.read()[0], phase.read()[0] if requires_phase and phase is not None else None
    except InputError as error:
        # A series is named by its description, in which a site may write anything.
        raise InputError(error.code, scan.path, error.expected, error.got, error.remedy) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly everything in pydicom, with values of theirs in the message
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_temporary_room("room to convert a DICOM series") from error
        got = f"one that cannot be read ({type(error).__name__})"
        raise InputError("import-conversion", scan.path, "a DICOM series", got, "copy or export it again") from error


def _read_objects(url: str, phase: Path | str | None, requires_phase: bool) -> tuple[Volume, Volume | None]:
    """As `read_images`, of a URL; its phase image has to be named, by a URL too or by a path."""
    if requires_phase and phase is None:
        remedy = "name the phase image in the column phase"
        raise InputError("phase-missing", url, "a phase image, which the release uses", "none", remedy)
    wanted = [url, phase] if requires_phase and isinstance(phase, str) else [url]
    with fetched(wanted) as files:
        local = phase if isinstance(phase, Path) else files[-1]
        try:
            return read_scan(files[0], local, requires_phase)
        except InputError as error:  # names the temporary file
            raise InputError(error.code, url, error.expected, error.got, error.remedy) from error


def choose(stacks: Sequence[Stack], case: Path) -> tuple[Stack, Stack | None]:
    """The SWI among the series of one folder, and its phase as `cmb import` pairs them, None without one.

    Args:
        stacks: All series (`importing.dicom_series.stacks_of`).
        case: The folder, in errors.

    Raises:
        InputError: If there is no SWI, several, SWI of several studies or patients, or none that is whole.
    """
    from cmb_models.importing.plan import of_study

    found = [s for s in stacks if s.role == SWI]
    remedy = "list a folder with the series of one SWI acquisition"
    if not found:
        raise InputError("scan-series", case, "an SWI series", f"none among {len(stacks)} DICOM series", remedy)
    if (studies := len({(s.study, s.who) for s in found})) > 1:
        raise InputError("scan-series", case, "SWI of one study", f"SWI of {studies} studies", remedy)
    study = [s for s in stacks if (s.study, s.who) == (found[0].study, found[0].who)]
    taken = {stack.role: stack for stack, step in zip(study, of_study(study), strict=True) if step.target}
    if SWI in taken:
        return taken[SWI], taken.get(PHASE)
    if faults := [s.fault for s in found if s.fault]:
        raise InputError("import-conversion", case, "a whole SWI series", "; ".join(faults), "export it again")
    described = ", ".join(f"number {s.first.text('SeriesNumber') or '?'} (echo {s.echo_ms or 0:g} ms)" for s in found)
    raise InputError("scan-series", case, "one SWI series", f"{len(found)}: {described}", remedy)


def _stacks(folder: Path, phase: Path | None) -> list[Stack]:
    from cmb_models.importing.dicom_series import read_headers, stacks_of

    unread: list[object] = []  # counted alone: names of files may be those of patients
    folders = [folder] if phase is None else [folder, phase]
    files = [f for place in folders for f in files_below(place, unread.append)]
    with _HEADERS:
        headers, _, damaged = read_headers(files)
        unread += damaged
        if unread:
            got = f"{len(unread)} that cannot be read"
            raise InputError("import-conversion", folder, "DICOM files that can be read", got, "copy or export them again")
        return stacks_of(headers)
