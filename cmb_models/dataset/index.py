"""The index of a site's data: every scan with its hash, geometry and lesion count, or every fault found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cmb_models.config.params import Preprocess
from cmb_models.dataset.entries import ScanEntry, ScanIndex
from cmb_models.dataset.frames import darkness_by_frame, require_frame
from cmb_models.dataset.layout import ANNOTATIONS, ScanFile, find_scans, images_left_out, phase_beside, read_phase
from cmb_models.detect.checks import check_scan
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.io.annotations import NONE, Annotation
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.volume import Volume, index_from_world

ONE_LESION_MM = 2.0  # the smallest CMB by definition: two nearer centres are two readings of one


def index_datasets(raw_dir: Path, settings: Preprocess | None = None) -> ScanIndex:
    """Check all datasets in one pass, and list their scans.

    Args:
        raw_dir: Folder with one folder per dataset.
        settings: If they enable phase, every scan needs a usable phase image.

    Returns:
        One entry per scan that was read, by dataset and path; the other scans are listed as unread. All are checked.

    Raises:
        InputError: If `raw_dir` is itself a dataset or holds none; else one error that lists the faults of all scans: not
            readable, not plausible as SWI, a duplicate file, an annotation outside its scan or repeated, a missing or unusable
            phase image.
    """
    with_phase = settings if settings is not None and settings.phase else None
    if (Path(raw_dir) / ANNOTATIONS).is_file():  # one fault, and not one for each of its subjects
        remedy = f"move all that is in it into a folder of its own, {Path(raw_dir) / 'site'}"
        raise InputError("dataset-layout", raw_dir, "a folder of datasets", f"a dataset itself, with its {ANNOTATIONS}", remedy)
    folders = _datasets(raw_dir)
    if not folders:
        raise InputError(
            "dataset-layout", raw_dir, "a folder of datasets", "none", "add one (README: your own scans), or run `make demo`"
        )
    entries: list[ScanEntry] = []
    faults: list[str] = []
    unread: list[str] = []
    for folder in folders:
        found, skipped, wrong = _dataset(folder, with_phase)
        entries, unread, faults = entries + found, unread + skipped, faults + wrong
    faults += _repeated(entries)
    entries = [entry for entry in entries if entry["path"] not in unread]
    if faults:
        listed = "".join(f"\n  - {f}" for f in faults)
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError("dataset-faults", raw_dir, "usable scans and annotations", f"{number}:{listed}\n", "correct all of these")
    return {"scans": entries, "unread": unread} if unread else {"scans": entries}


def summary(index: ScanIndex) -> list[str]:
    """One line per dataset: scans, subjects, microbleeds."""
    lines = []
    for name in sorted({entry["dataset"] for entry in index["scans"]}):
        scans = [entry for entry in index["scans"] if entry["dataset"] == name]
        subjects, empty = len({entry["subject"] for entry in scans}), sum(not entry["n_cmbs"] for entry in scans)
        n_cmbs = sum(entry["n_cmbs"] for entry in scans)
        lines.append(f"{name}: scans {len(scans)} ({empty} without microbleeds), subjects {subjects}, microbleeds {n_cmbs}")
    if unread := index.get("unread", []):
        first = unread[0] + (" ..." if len(unread) > 1 else "")
        lines.append(f"{len(unread)} scans without rows in {ANNOTATIONS} are unread and not used: {first}")
        lines.append(f"if they were read and nothing was found, add a row with the label {NONE} for each")
    return lines


def left_out(raw_dir: Path) -> list[str]:
    """One line per dataset and reason: how many of its images are not used, and the first."""
    lines = []
    for folder in _datasets(raw_dir):
        reasons: dict[str, list[Path]] = {}
        for image, reason in images_left_out(folder).items():
            reasons.setdefault(reason, []).append(image)
        for reason, images in reasons.items():
            first = images[0].relative_to(raw_dir).as_posix()
            lines.append(f"{folder.name}: {len(images)} images not used, {reason}: {first}{' ...' if len(images) > 1 else ''}")
    return lines


def _datasets(raw_dir: Path) -> list[Path]:
    return sorted(p for p in Path(raw_dir).glob("*") if p.is_dir() and not p.name.startswith("."))


def _repeated(entries: list[ScanEntry]) -> list[str]:
    """One fault for every scan that stands under two names: its patient could be trained on and tested on."""
    seen: dict[str, str] = {}
    faults = []
    for entry in entries:
        for sha256, what in ((entry["content_sha256"], "scan"), (entry.get("phase_sha256"), "phase image")):
            first = entry["path"] if sha256 is None else seen.setdefault(sha256, entry["path"])
            if first != entry["path"]:
                faults.append(f"{entry['path']}: expected a scan of its own, got the same {what} as {first}; keep one of them")
    return faults


def _dataset(folder: Path, with_phase: Preprocess | None) -> tuple[list[ScanEntry], list[str], list[str]]:
    """The scans of one dataset, the paths of those that nobody read, and its faults."""
    try:
        scans = find_scans(folder)
    except InputError as error:
        return [], [], [str(error)]
    entries, faults, marks = [], [], []
    for scan in scans:
        try:
            volume = read_volume(scan.path)
            check_scan(volume, str(scan.path))
            marks.append(darkness_by_frame(_centres(a for a in scan.annotations if a.is_cmb), volume))
            _check_inside(scan, volume)
            entries.append(_entry(scan, volume, with_phase))
        except InputError as error:
            faults.append(error)
    try:
        require_frame(folder / ANNOTATIONS, marks)
    except InputError as error:  # the cause of the marks outside their scans
        faults = [error, *(fault for fault in faults if fault.code != "annotation-outside")]
    return entries, [scan.path.as_posix() for scan in scans if not scan.is_read], [str(fault) for fault in faults]


def _centres(annotations: Iterable[Annotation]) -> np.ndarray:
    """RAS mm, (N, 3); N may be 0."""
    return np.array([a.centre_mm for a in annotations]).reshape(-1, 3)


def _entry(scan: ScanFile, volume: Volume, with_phase: Preprocess | None) -> ScanEntry:
    entry: ScanEntry = {
        "key": scan.key,
        "dataset": scan.dataset,
        "subject": scan.subject_key,
        "session": scan.session,
        "path": scan.path.as_posix(),
        "sha256": sha256_of(scan.path),
        "content_sha256": content_sha256(volume),
        "shape": list(volume.data.shape),
        "spacing_mm": [round(s, 4) for s in volume.spacing_mm],
        "n_cmbs": sum(a.is_cmb for a in scan.annotations),
    }
    if with_phase is not None:
        # Raises where the phase image is none.
        prepare(volume, with_phase, str(scan.path), read_phase(scan.path))
        entry["phase_sha256"] = sha256_of(phase_beside(scan.path))
    return entry


def _check_inside(scan: ScanFile, volume: Volume) -> None:
    centres = _centres(scan.annotations)
    _require_one_label_a_place(scan, centres)
    cmbs = _centres(a for a in scan.annotations if a.is_cmb)
    if len(pairs := cKDTree(cmbs).query_pairs(ONE_LESION_MM) if len(cmbs) else ()):
        got = f"{len(pairs)} pairs of rows nearer than {ONE_LESION_MM:g} mm"
        raise InputError("annotation-repeated", scan.path, "one row a microbleed", got, "merge the rows of several raters")
    index = np.rint(index_from_world(centres, volume.affine))
    outside = ((index < 0) | (index >= volume.data.shape)).any(axis=1)
    if outside.any():
        got = f"{int(outside.sum())} of {len(outside)} outside it, the first at {centres[outside][0].round(1).tolist()}"
        remedy = "give x_mm, y_mm, z_mm in scanner RAS (not LPS, not voxels)"
        raise InputError("annotation-outside", scan.path, "annotations inside the scan", got, remedy)


def _require_one_label_a_place(scan: ScanFile, centres: np.ndarray) -> None:
    labels = [a.label for a in scan.annotations]
    pairs = cKDTree(centres).query_pairs(ONE_LESION_MM) if len(centres) else set()
    differing = sorted((i, j) for i, j in pairs if labels[i] != labels[j])
    if differing:
        i, j = differing[0]
        got = f"{labels[i]} and {labels[j]} within {ONE_LESION_MM:g} mm at {centres[i].round(1).tolist()}"
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        remedy = "keep one of the rows, or mark the place as possible"
        raise InputError("annotation-repeated", scan.path, "one label a place", got + more, remedy)
