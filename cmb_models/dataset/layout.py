"""The folder layout a site keeps its scans in: <dataset>/sub-*/[ses-*/]swi/sub-*_swi.nii.gz and annotations.csv.

BIDS puts SWI below swi/ or anat/; files may be compressed or not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError, collected
from cmb_models.files import files_below, sha256_of, system_reason
from cmb_models.io.annotations import Annotation, Readings, read_readings
from cmb_models.io.nifti import read_volume, scan_name
from cmb_models.volume import Volume

ANNOTATIONS = "annotations.csv"
LAYOUT = "sub-*/[ses-*/](swi|anat)/sub-*_swi.nii[.gz]"
SCAN = re.compile(  # a session in the name is the folder's
    r"(?P<subject>sub-[^/]+)/((?P<session>ses-[^/]+)/)?(swi|anat)/"
    r"(?P=subject)_(?!([^/]*_)?(?!(?P=session)_)ses-)([^/]*_)?swi\.nii(\.gz)?"
)
CODE = re.compile(r"sub-[a-z2-7]{8}")  # a subject code of `cmb import`: one for a patient in all datasets of a folder
DERIVED = {"derivatives", "sourcedata"}  # BIDS's folders of what is not raw data
SHOWN = 5  # files in a message


@dataclass(frozen=True)
class ScanFile:
    """One SWI scan of a dataset with its annotations.

    is_read: whether anyone read it: () of a scan that was read are no microbleeds, of one that was not they say nothing.
    """

    dataset: str
    subject: str
    session: str
    path: Path
    annotations: tuple[Annotation, ...]
    is_read: bool

    @property
    def key(self) -> str:
        """Name of the scan, unique over all datasets."""
        return "_".join(p for p in (self.dataset, self.subject, self.session) if p)

    @property
    def subject_key(self) -> str:
        """Name of the subject, unique over all datasets: the unit that is split."""
        return f"{self.dataset}_{self.subject}"


def require_checked_out(raw: Path) -> None:
    """Raise InputError naming the datasets that DVC versions and of which data/raw has the .dvc file alone."""
    if absent := sorted(f.stem for f in Path(raw).glob("*.dvc") if not f.with_suffix("").exists()):
        got = f"no {', no '.join(absent)}"
        raise InputError("data-missing", raw, "all datasets that DVC versions", got, "bring them with `dvc pull`")


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset itself: it has annotations or subjects."""
    return (folder / ANNOTATIONS).is_file() or any(path.is_dir() for path in folder.glob("sub-*"))


def dataset_folders(raw_dir: Path) -> list[Path]:
    """The datasets in a folder, by name."""
    return sorted(p for p in Path(raw_dir).glob("*") if p.is_dir() and not p.name.startswith("."))


def raw_datasets(raw_dir: Path) -> list[Path]:
    """The datasets of a workspace, by name; at least one.

    Raises:
        InputError: If the folder is itself a dataset or holds none, or a dataset that DVC versions was not pulled.
    """
    raw_dir = Path(raw_dir)
    if (raw_dir / ANNOTATIONS).is_file():  # one fault, and not one for each of its subjects
        remedy = f"move all that is in it into a folder of its own, {raw_dir / 'site'}"
        raise InputError("dataset-layout", raw_dir, "a folder of datasets", f"a dataset itself, with its {ANNOTATIONS}", remedy)
    require_checked_out(raw_dir)
    if not (folders := dataset_folders(raw_dir)):
        remedy = "import one with `cmb import`, or run `make demo`"
        raise InputError("dataset-layout", raw_dir, "a folder of datasets", "none", remedy)
    return folders


def phase_beside(swi: Path) -> Path:
    """Expected path of an SWI file's phase image: NAME_part-phase_swi next to NAME_swi, else NAME_part-phase."""
    name = scan_name(swi)
    ending = ("_swi" if name.endswith("_swi") else "") + swi.name[len(name) :]
    return swi.with_name(f"{swi.name.removesuffix(ending)}_part-phase{ending}")


def require_indexed(file: Path, sha256: str) -> None:
    """Raise InputError unless a file is the one of which data/index.json has the hash."""
    remedy = "run `dvc repro`, which begins with ingest"
    if not file.is_file():
        raise InputError("scan-not-found", file, "the file that ingest checked", "no such file", remedy)
    if sha256_of(file) != sha256:
        raise InputError("scan-changed", file, "the file that ingest checked", "another one", remedy)


def read_phase(swi: Path, file: Path | None = None, needs_place: bool = True) -> Volume:
    """Read the phase image of an SWI file.

    Args:
        swi: The SWI file; it names the case in errors.
        file: The phase image; if None, `phase_beside(swi)`.
        needs_place: As in `read_volume`.

    Returns:
        The phase image as stored; its grid and values are not checked.

    Raises:
        InputError: If the phase image is missing or cannot be read.
    """
    path = file or phase_beside(swi)
    try:
        return read_volume(path, needs_place)
    except InputError as error:
        got = "no such file" if not path.exists() else error.got
        raise InputError(
            "phase-missing", swi, f"its phase image {path}", got, "add the scan's phase series as that file"
        ) from error


def images_left_out(dataset: Path) -> dict[Path, str]:
    """Every NIfTI file below a dataset that is none of its SWI scans, with the reason."""
    return {f: _reason(dataset, f) for f in _images(dataset) if not _is_scan(dataset, f)}


def by_reason(left_out: Mapping[Path, str]) -> dict[str, list[Path]]:
    """The images of `images_left_out` by the reason."""
    reasons: dict[str, list[Path]] = {}
    for image, reason in left_out.items():
        reasons.setdefault(reason, []).append(image)
    return reasons


def _images(dataset: Path, on_error: Callable[[OSError], None] = lambda error: None) -> list[Path]:
    """All NIfTI files below a dataset but those in hidden folders, sorted by path."""
    return [f for f in files_below(dataset, on_error) if f.name.lower().endswith((".nii", ".nii.gz"))]


def _is_scan(dataset: Path, file: Path) -> bool:
    return subject_and_session(file.relative_to(dataset).as_posix()) is not None


def subject_and_session(path: str) -> tuple[str, str] | None:
    """The subject and the session ("" for a single one) of a scan by its path in the dataset; None for any other file."""
    found = SCAN.fullmatch(path)
    if found is None or "_part-" in path.rpartition("/")[2]:
        return None
    return found["subject"], found["session"] or ""


def _is_misnamed(dataset: Path, file: Path) -> bool:
    """Whether a file that is no scan of the layout is named like one."""
    name = file.name.lower()
    return not DERIVED & set(file.relative_to(dataset).parts) and "_part-" not in name and scan_name(Path(name)).endswith("swi")


def _reason(dataset: Path, file: Path) -> str:
    if folders := DERIVED & set(file.relative_to(dataset).parts):
        return f"in {min(folders)}/"
    if "_part-phase" in file.name:
        return "phase, read with its SWI if the release uses phase"
    if "_part-mag" in file.name:
        return "magnitude"
    return "a part of a complex image" if "_part-" in file.name else f"not named {LAYOUT}"


def find_scans(dataset: Path) -> list[ScanFile]:
    """Find all SWI scans of a dataset with their annotations. Images are not opened.

    Args:
        dataset: Folder with annotations.csv and sub-*/[ses-*/](swi|anat)/sub-*_swi.nii[.gz]. Other images, such as phase images
            and label masks, are left out (`images_left_out`).

    Returns:
        The scans, sorted by path; at least one.

    Raises:
        InputError: The first fault of `survey`.
    """
    found = survey(dataset)
    if found.faults:
        raise found.faults[0]
    return found.scans


@dataclass(frozen=True)
class Survey:
    """What lies in a dataset. is_annotated: whether annotations.csv can be read; if not, nothing is known of what was read."""

    scans: list[ScanFile]
    faults: list[InputError]
    is_annotated: bool


def survey(dataset: Path) -> Survey:
    """The scans of a dataset, as `find_scans`, and every fault of its layout.

    Faults: annotations.csv or scans are missing, annotations.csv cannot be read, a session has several scans, an annotation has no
    scan, a file or folder that is named like an SWI scan has another name or place than the layout's, or a folder cannot be read:
    it would be missing without a word.
    """
    dataset = Path(dataset)
    faults: list[InputError] = []
    readings = Readings([], [])
    with collected(faults):
        readings = _readings(dataset)
    is_annotated = not faults
    images = _images(dataset, lambda error: faults.append(_not_readable(error)))
    files = {f: at for f in images if (at := subject_and_session(f.relative_to(dataset).as_posix()))}
    folders = [f for f in sorted(dataset.rglob("*swi.nii*")) if f.is_dir()]
    if misnamed := [f for f in (*images, *folders) if f not in files and _is_misnamed(dataset, f)]:
        got = ", ".join(f.relative_to(dataset).as_posix() for f in misnamed[:SHOWN])
        got += f" and {len(misnamed) - SHOWN} more" if len(misnamed) > SHOWN else ""
        remedy = "rename or remove them: they are not read"
        faults.append(InputError("dataset-layout", dataset, f"scans as {LAYOUT}", got, remedy))
    if not files:
        remedy = "import them with `cmb import`, or put them in this layout"
        faults.append(InputError("dataset-layout", dataset, f"scans as {LAYOUT}", "none", remedy))
        return Survey([], faults, is_annotated)
    found = [_scan(dataset, file, at, readings) for file, at in files.items()]
    if twice := sorted(key for key, n in Counter(s.key for s in found).items() if n > 1):
        got = f"several of {', '.join(twice)}"
        faults.append(InputError("dataset-layout", dataset, "one SWI scan a session", got, "keep one of each"))
    known = {(s.subject, s.session) for s in found}
    named = {(r.subject, r.session) for r in readings.annotations} | {(r.subject, r.session) for r in readings.empty}
    if strays := sorted(f"{subject}/{session}".rstrip("/") for subject, session in named - known):
        file, remedy = dataset / ANNOTATIONS, "add the scans or drop the rows"
        faults.append(InputError("annotation-without-scan", file, "rows of scans that are there", ", ".join(strays), remedy))
    return Survey(found, faults, is_annotated)


def _not_readable(error: OSError) -> InputError:
    got = system_reason(error)
    return InputError("file-not-readable", error.filename, "a folder that may be read", got, "check its permissions")


def _readings(dataset: Path) -> Readings:
    if not (dataset / ANNOTATIONS).is_file():
        remedy = "add the list of marked microbleeds, or a header alone to list the scans first"
        raise InputError("dataset-layout", dataset, f"a dataset with {ANNOTATIONS}", "none", remedy)
    return read_readings(dataset / ANNOTATIONS)


def _scan(dataset: Path, file: Path, name: tuple[str, str], readings: Readings) -> ScanFile:
    """name: subject and session."""
    rows = tuple(row for row in readings.annotations if (row.subject, row.session) == name)
    is_read = bool(rows) or any((row.subject, row.session) == name for row in readings.empty)
    return ScanFile(dataset.name, *name, file, rows, is_read)
