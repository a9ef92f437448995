"""The SWI in a folder of DICOM files, with its phase, as a scan to detect in: it is read where it lies, nothing is written."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.errors import InputError
from cmb_models.files import FULL, files_below, no_temporary_room
from cmb_models.io.series_role import PHASE, SWI
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from cmb_models.importing.dicom.series import Stack

# Warnings of pydicom, which hold values such as names, are silenced for the whole process while headers are read.
_HEADERS = threading.Lock()


@dataclass(frozen=True, repr=False)
class DicomScan:
    """A scan of a folder.

    Attributes:
        swi: (I, J, K) as dcm2niix orders it.
        phase: On the same grid; None if it was not asked for.
        files: Of the SWI's images, by position along the slices' normal.
    """

    swi: Volume
    phase: Volume | None
    files: tuple[Path, ...]


def require_readers(folder: Path) -> None:
    """Raise InputError if the packages that read DICOM are missing. folder: in the error."""
    missing = [name for name in ("pydicom", "dcm2niix") if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "run pip install 'cmb-models[dicom]'"
        raise InputError("package-missing", folder, "the packages that read DICOM", f"no {' and no '.join(missing)}", remedy)


def read_scan_folder(folder: Path, phase: Path | None, requires_phase: bool) -> DicomScan:
    """Read the SWI in a folder and, where the release uses it, its phase image.

    Args:
        folder: With the series of one SWI acquisition, at any depth; other series in it are ignored.
        phase: Another folder, with the phase series; None if it is in the same one.
        requires_phase: Whether the phase image is read.

    Raises:
        InputError: If the images cannot be used. It names the folder, and nothing that DICOM headers say of the patient.
    """
    with _errors_of(folder):
        swi, found = choose(_stacks(folder, phase), folder)
        if requires_phase and found is None:
            remedy = "add the phase series to the folder, or name its folder as the scan's phase"
            raise InputError("phase-missing", folder, "a phase series on the grid of its SWI", "none", remedy)
        image = found.read()[0] if requires_phase and found is not None else None
        return DicomScan(swi.read()[0], image, tuple(header.file for header in swi.headers))


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """Errors of reading, as InputError that names the folder alone."""
    try:
        yield
    except InputError as error:
        # A series is named by its description, in which a site may write anything.
        raise InputError(error.code, folder, error.expected, error.got, error.remedy) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly everything in pydicom, with values of theirs in the message
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_temporary_room("room to convert a DICOM series") from error
        got = f"one that cannot be read ({type(error).__name__})"
        raise InputError("import-conversion", folder, "a DICOM series", got, "copy or export it again") from error


def choose(stacks: Sequence[Stack], case: Path) -> tuple[Stack, Stack | None]:
    """The SWI among the series of one folder, and its phase as `cmb import` pairs them, None without one.

    Args:
        stacks: All series (`series.stacks_of`).
        case: The folder, in errors.

    Raises:
        InputError: If there is no SWI, several, SWI of several studies or patients, or none that is whole.
    """
    from cmb_models.importing.plan import of_study

    found = [s for s in stacks if s.role == SWI]
    remedy = "pass a folder with the series of one SWI acquisition"
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
    from cmb_models.importing.dicom.series import read_headers, stacks_of

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
