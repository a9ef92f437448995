"""Everything that is wrong with a site's data, at once: `cmb check` shows it, and the ingest stage refuses the data for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Preprocess
from cmb_models.dataset.check.frames import WRITTEN, darkness_by_frame, require_frame
from cmb_models.dataset.check.head import height_mm, is_brain_extracted
from cmb_models.dataset.check.marks import centres_of, faults_of_marks, warnings_of_marks
from cmb_models.dataset.entries import ScanEntry
from cmb_models.dataset.layout import ANNOTATIONS, CODE, ScanFile, images_left_out, phase_beside, read_phase, survey
from cmb_models.detect.checks import check_scan
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError, collected
from cmb_models.files import sha256_of
from cmb_models.io.annotations import NONE
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI
from cmb_models.io.sidecar import ZEROED, facts_of, read_sidecar, sidecars_of, stated_role
from cmb_models.volume import Volume

SHOWN = 5  # names in a message
LEAST_HEIGHT_MM = 80.0  # a brain has about 120 mm: less leaves out lobes, where cerebral amyloid angiopathy bleeds


@dataclass
class DatasetCheck:
    """What `check_dataset` found.

    faults: what must be corrected. warnings: what may be right. scans: all that lie in the layout. entries: of the readable ones,
    by path. is_annotated: whether annotations.csv can be read.
    """

    folder: Path
    scans: list[ScanFile] = field(default_factory=list)
    entries: dict[Path, ScanEntry] = field(default_factory=dict)
    faults: list[InputError] = field(default_factory=list)
    warnings: list[InputError] = field(default_factory=list)
    is_annotated: bool = True

    @property
    def used(self) -> list[ScanEntry]:
        """Entries of the scans that were read."""
        return [self.entries[scan.path] for scan in self.scans if scan.is_read and scan.path in self.entries]

    @property
    def unread(self) -> list[ScanFile]:
        """Scans that nobody read: they are neither trained on nor evaluated. None where annotations.csv cannot be read."""
        return [scan for scan in self.scans if self.is_annotated and not scan.is_read]


def check_dataset(
    folder: Path,
    with_phase: Preprocess | None = None,
    on_scan: Callable[[ScanFile, Volume | None], None] = lambda scan, ras: None,
) -> DatasetCheck:
    """Check a dataset: its layout, its annotations, and every scan.

    Args:
        folder: The dataset.
        with_phase: If given, every scan needs a usable phase image.
        on_scan: Called with each scan and its volume in RAS+ order, None for one that cannot be read.

    Returns:
        Everything found; nothing is raised for faults of the data.
    """
    found = DatasetCheck(Path(folder))
    surveyed = survey(found.folder)
    found.scans, found.faults, found.is_annotated = surveyed.scans, surveyed.faults, surveyed.is_annotated
    marks: list[dict[str, np.ndarray]] = []
    for scan in found.scans:
        volume = ras = None
        with collected(found.faults):
            volume = read_volume(scan.path)
            ras = volume.to_ras()
            _check_readable(scan, volume, ras, with_phase, found, marks)
        on_scan(scan, ras)
    try:
        require_frame(found.folder / ANNOTATIONS, marks)
    except InputError as error:  # the cause of the marks outside their scans
        found.faults = [error, *(fault for fault in found.faults if fault.code != "annotation-outside")]
        found.warnings = [warning for warning in found.warnings if warning.code != "annotation-not-dark"]
    found.warnings += [*_without_scans(found), *(_unread(scan) for scan in found.unread)]
    return found


def _check_readable(
    scan: ScanFile,
    volume: Volume,
    ras: Volume,
    with_phase: Preprocess | None,
    found: DatasetCheck,
    marks: list[dict[str, np.ndarray]],
) -> None:
    """Add what is wrong with a scan that can be read, its entry, and the darkness of its marks."""
    with collected(found.faults):
        check_scan(ras, str(scan.path))
    sidecar = read_sidecar(scan.path)
    role, reason = stated_role(facts_of(sidecar)) or (SWI, "")
    with collected(found.faults):
        _require_swi(scan, role, reason)
    darkness = darkness_by_frame(centres_of(a for a in scan.annotations if a.is_cmb), volume)
    marks.append(darkness)
    found.warnings += _warnings_of_scan(scan, ras, role)
    wrong = faults_of_marks(scan, volume)
    found.faults += wrong
    found.warnings += [] if wrong else warnings_of_marks(scan, darkness[WRITTEN])
    found.entries[scan.path] = _entry(scan, volume, ras, sidecar)
    if with_phase is not None:
        with collected(found.faults):
            found.entries[scan.path]["phase_sha256"] = _phase_sha256(scan, volume, with_phase)


def _without_scans(found: DatasetCheck) -> list[InputError]:
    """A warning for the subjects' folders without a NIfTI file, which would be named: empty, links, or with other formats."""
    there = {scan.subject for scan in found.scans}
    named = {image.relative_to(found.folder).parts[0] for image in images_left_out(found.folder)}
    missing = sorted(f.name for f in found.folder.glob("sub-*") if f.is_dir() and f.name not in there | named)
    if not missing:
        return []
    got = f"none for {', '.join(missing[:SHOWN])}{f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''}"
    remedy = "convert their scans to NIfTI (`cmb import`), or remove the folders"
    return [InputError("dataset-layout", found.folder, "a scan in each subject's folder", got, remedy)]


def faults_across(entries: Iterable[ScanEntry], withdrawn: Collection[str] = ()) -> list[InputError]:
    """What no dataset shows alone: one scan under two names, one patient in two datasets, a withdrawn scan that came back.

    withdrawn: hashes of files and contents (workspace/withdrawals.py).
    """
    return [*_repeated(entries := list(entries)), *_same_patients(entries), *_withdrawn(entries, withdrawn)]


def _withdrawn(entries: Sequence[ScanEntry], hashes: Collection[str]) -> list[InputError]:
    """One fault for every scan that was withdrawn and is there again, from an import, a backup or an older commit."""
    expected, remedy = "no scan of a patient who withdrew", "remove it with `cmb data withdraw`"
    again = [entry["path"] for entry in entries if {entry["sha256"], entry["content_sha256"]} & set(hashes)]
    return [InputError("scan-withdrawn", path, expected, "one that withdrawals.jsonl names", remedy) for path in again]


def _repeated(entries: Sequence[ScanEntry]) -> list[InputError]:
    """One fault for every scan that stands under two names: its patient could be trained on and tested on."""
    seen: dict[str, str] = {}
    faults = []
    for entry in entries:
        for sha256, what in ((entry["content_sha256"], "scan"), (entry.get("phase_sha256"), "phase image")):
            first = entry["path"] if sha256 is None else seen.setdefault(sha256, entry["path"])
            if first != entry["path"]:
                got = f"the same {what} as {first}"
                faults.append(InputError("scan-repeated", entry["path"], "a scan of its own", got, "keep one of them"))
    return faults


def _same_patients(entries: Sequence[ScanEntry]) -> list[InputError]:
    """One fault for every patient in two datasets, by the code that `cmb import` gave: the split would take two patients for it."""
    datasets: dict[str, set[str]] = {}
    for entry in entries:
        code = entry["subject"].removeprefix(f"{entry['dataset']}_")
        if CODE.fullmatch(code):
            datasets.setdefault(code, set()).add(entry["dataset"])
    expected, remedy = "a patient's scans in one dataset", "keep them in one of these"
    return [
        InputError("leakage", code, expected, f"some in each of {', '.join(sorted(names))}", remedy)
        for code, names in sorted(datasets.items())
        if len(names) > 1
    ]


def _phase_sha256(scan: ScanFile, volume: Volume, with_phase: Preprocess) -> str:
    """The hash of a scan's phase image. Raises InputError where it is none."""
    prepare(volume, with_phase, str(scan.path), read_phase(scan.path))
    return sha256_of(phase_beside(scan.path))


def _entry(scan: ScanFile, volume: Volume, ras: Volume, sidecar: Mapping[str, Any]) -> ScanEntry:
    entry: ScanEntry = {
        "key": scan.key,
        "dataset": scan.dataset,
        "subject": scan.subject_key,
        "session": scan.session,
        "path": scan.path.as_posix(),
        "sha256": sha256_of(scan.path),
        "content_sha256": content_sha256(ras),
        "shape": list(volume.data.shape),
        "spacing_mm": [round(s, 4) for s in volume.spacing_mm],
        "n_cmbs": sum(a.is_cmb for a in scan.annotations),
        "brain_extracted": is_brain_extracted(ras),
    }
    if isinstance(zeroed := sidecar.get(ZEROED), int):
        entry["nan_voxels_set_to_zero"] = zeroed
    return entry


def _require_swi(scan: ScanFile, role: str, reason: str) -> None:
    """Raise InputError if a scan is phase, a projection or another contrast by its sidecar's role, for this reason."""
    if role in (PHASE, SKIPPED):
        got = f"{reason or 'phase'} by {_sidecars(scan)}"
        raise InputError("scan-derived", scan.path, "an SWI", got, "replace it by the SWI series, or correct the sidecar")


def _sidecars(scan: ScanFile) -> str:
    return " and ".join(file.name for file in sidecars_of(scan.path))


def _warnings_of_scan(scan: ScanFile, ras: Volume, role: str) -> list[InputError]:
    """A magnitude or gradient echo in place of an SWI, and a part of a head."""
    found = []
    if role in (MAGNITUDE, GRE):
        got = f"a magnitude image by {_sidecars(scan)}"
        found.append(InputError("scan-derived", scan.path, "an SWI", got, "use the SWI series if there is one"))
    if (height := height_mm(ras)) < LEAST_HEIGHT_MM:
        expected, remedy = f"a scan of at least {LEAST_HEIGHT_MM:g} mm from bottom to top", "check that this is the whole series"
        found.append(InputError("scan-coverage", scan.path, expected, f"{height:.0f} mm", remedy))
    return found


def _unread(scan: ScanFile) -> InputError:
    remedy = f"add its marks, or a row with the label {NONE} if it was read and nothing found; else it is not used"
    return InputError("scan-unread", scan.path, f"rows in {ANNOTATIONS}", "none", remedy)
