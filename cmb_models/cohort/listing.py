"""A cohort's scans, from a manifest or from the names of the files in a BIDS dataset."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmb_models.cohort.manifest import CohortScan, kind_of, read_manifest, require_sound
from cmb_models.errors import InputError
from cmb_models.files import files_below, sha256_of
from cmb_models.importing.dicom.files import dicom_files
from cmb_models.importing.file_names import Name, read_name, relative_parts
from cmb_models.io.nifti import SUFFIXES, scan_name
from cmb_models.io.series_role import PHASE, SWI


@dataclass(frozen=True)
class Cohort:
    """The scans, and what identifies the list: the SHA-256 of the manifest, or of the images' sorted relative paths."""

    scans: list[CohortScan]
    sha256: str


def list_cohort(place: Path) -> Cohort:
    """List and check a cohort's scans, before any is opened.

    Args:
        place: A manifest (`read_manifest`), or the folder of a BIDS dataset, of which all images named sub-*_swi are listed, with
            their phase images.

    Returns:
        The scans, at least one; those of a dataset sorted by path, under their files' names.

    Raises:
        InputError: As `read_manifest`, and for a dataset without SWI, with folders that cannot be read, or with a subject's image
            in the folder of another.
    """
    place = Path(place)
    return _list_bids(place.absolute()) if place.is_dir() else Cohort(read_manifest(place), sha256_of(place))


def list_scans(paths: Sequence[Path], phases: Mapping[Path, Path], without: Path | None = None) -> list[CohortScan]:
    """The scans of a command's arguments.

    Args:
        paths: Each a NIfTI file, a BIDS dataset's folder, a folder with NIfTI files, or one with the DICOM files of one SWI
            acquisition. Of NIfTI files in a folder those are left out that are named as something else than SWI.
        phases: The phase image of a path, of the same kind; not for folders with NIfTI files.
        without: A folder, such as that of the results, whose files are left out.

    Returns:
        The scans in the order of the paths, at least one. A folder of DICOM files has its own name, after its parent's where there
        are several of this name.

    Raises:
        InputError: If a folder has no scan, or NIfTI and DICOM files; for a dataset as in `list_cohort`.
    """
    names = Counter(path.resolve().name for path in paths if path.is_dir())
    found: list[CohortScan] = []
    for path in paths:
        if not path.is_dir():
            found.append(CohortScan(0, scan_name(path), path, phases.get(path)))
        elif images := _nifti_below(path, without):
            if path in phases:
                got = f"--phase {phases[path]} for a folder with {len(images)} NIfTI files"
                raise InputError("options-conflict", path, "a phase image for one scan", got, "pass the scans themselves")
            found += (
                _list_bids(path.absolute()).scans if any(_name(f, path).role == SWI for f in images) else _unnamed(path, images)
            )
        else:
            place = path.resolve()
            name = place.name if names[place.name] == 1 else f"{place.parent.name}_{place.name}"
            found.append(CohortScan(0, name.lstrip("_") or "scan", path, phases.get(path), is_folder=True))
    return [replace(scan, number=n) for n, scan in enumerate(found)]


def _nifti_below(folder: Path, without: Path | None) -> list[Path]:
    """NIfTI files in a folder, in which there are then no DICOM files."""
    left_out = None if without is None else without.resolve()
    files = [f for f in files_below(folder) if left_out is None or not f.resolve().is_relative_to(left_out)]
    images = [f for f in files if f.name.lower().endswith(SUFFIXES)]
    if images and (count := len(dicom_files(f for f in files if f not in set(images)))):
        got = f"{len(images)} NIfTI files, such as {images[0].relative_to(folder)}, and {count} DICOM files"
        raise InputError("scan-mixed", folder, "NIfTI or DICOM files", got, "pass the files or the folders of one kind")
    return images


def _unnamed(folder: Path, images: Sequence[Path]) -> list[CohortScan]:
    """The scans in a folder that is no BIDS dataset."""
    scans = [f for f in images if read_name(scan_name(f), *relative_parts(f, folder)).role in ("", SWI)]
    if not scans:
        got = f"{len(images)} that are named as something else"
        raise InputError("file-not-found", folder, "SWI among its NIfTI files", got, "pass the files themselves")
    return [CohortScan(0, scan_name(f), f) for f in scans]


def _list_bids(dataset: Path) -> Cohort:
    remedy = "correct the dataset, or list its scans in a CSV file"
    unread: list[OSError] = []
    names = {f: _name(f, dataset) for f in files_below(dataset, unread.append) if f.name.lower().endswith(SUFFIXES)}
    if unread:
        got = f"{len(unread)} that cannot be read, the first {unread[0].filename}"
        raise InputError("manifest-invalid", dataset, "folders that may be read", got, remedy)
    if strays := [f for f, name in names.items() if name.role in (SWI, PHASE) and not name.subject]:
        got = f"{len(strays)} in another's, the first {strays[0].relative_to(dataset).as_posix()}"
        raise InputError("manifest-invalid", dataset, "each image in the folder of its subject", got, remedy)
    phases: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file, name in names.items():
        if name.role == PHASE:
            phases[_acquisition(name)].append(file)
    found = [(f, phases[_acquisition(name)]) for f, name in names.items() if name.role == SWI]
    if not found:
        expected, got = "a CSV file, or a BIDS dataset with images sub-*_swi", f"a folder with {len(names)} images, none named so"
        raise InputError("manifest-invalid", dataset, expected, got, "list files or DICOM folders in a CSV file")
    # Of several phase images none is chosen: read_phase looks for the one that is named like its scan.
    scans = [
        CohortScan(n, scan_name(f), f, also[0] if len(also) == 1 else None, place=f.parent.relative_to(dataset).as_posix())
        for n, (f, also) in enumerate(found)
    ]
    images = [p for s in scans for p in (s.path, s.phase) if isinstance(p, Path)]
    require_sound(scans, {p: kind_of(p) for p in images}, dataset, remedy)
    listed = "\n".join(sorted(p.relative_to(dataset).as_posix() for p in images))
    return Cohort(scans, hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest())


def _name(file: Path, dataset: Path) -> Name:
    name = read_name(scan_name(file), *relative_parts(file, dataset))
    return name if name.is_bids else Name("", "", "", "", "", False)


def _acquisition(name: Name) -> tuple[str, ...]:
    return name.subject, name.session, name.acquisition
