"""Everything that is wrong with a site's data, at once: `cmb check` shows it, and the ingest stage refuses the data for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cmb_models.config.params import Preprocess
from cmb_models.dataset.entries import ScanEntry
from cmb_models.dataset.frames import WRITTEN, darkness_by_frame, require_frame
from cmb_models.dataset.head import height_mm, is_brain_extracted
from cmb_models.dataset.layout import ANNOTATIONS, CODE, ScanFile, phase_beside, read_phase, survey
from cmb_models.detect.checks import check_scan
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.io.annotations import NONE, Annotation
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.volume import Volume, index_from_world

ONE_LESION_MM = 2.0  # the smallest CMB by definition: two nearer centres are two readings of one
LEAST_HEIGHT_MM = 80.0  # a brain has about 120 mm: less leaves out lobes, where cerebral amyloid angiopathy bleeds
NOT_DARK = 0.5  # darkness (frames.py) of a mark below which it is named: of simulated and real CMBs, hardly any
SHOWN = 3  # places in a message


@dataclass
class DatasetCheck:
    """What `check_dataset` found.

    faults: what must be corrected. warnings: what may be right. scans: all that lie in the layout. entries: of the readable ones,
    by path. volumes are not kept.
    """

    folder: Path
    scans: list[ScanFile] = field(default_factory=list)
    entries: dict[Path, ScanEntry] = field(default_factory=dict)
    faults: list[InputError] = field(default_factory=list)
    warnings: list[InputError] = field(default_factory=list)

    @property
    def unread(self) -> list[ScanFile]:
        """Scans that nobody read: they are neither trained on nor evaluated."""
        return [scan for scan in self.scans if not scan.is_read]


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
    found.scans, found.faults = survey(found.folder)
    marks = []
    for scan in found.scans:
        ras = None
        try:
            volume = read_volume(scan.path)
            ras = volume.to_ras()
            check_scan(ras, str(scan.path))
            darkness = darkness_by_frame(_centres(a for a in scan.annotations if a.is_cmb), volume)
            marks.append(darkness)
            found.faults += _faults_of_marks(scan, volume)
            found.warnings += [*_warnings_of_scan(scan, ras), *_warnings_of_marks(scan, darkness[WRITTEN])]
            found.entries[scan.path] = _entry(scan, volume, is_brain_extracted(ras), with_phase)
        except InputError as error:
            found.faults.append(error)
        on_scan(scan, ras)
    try:
        require_frame(found.folder / ANNOTATIONS, marks)
    except InputError as error:  # the cause of the marks outside their scans
        found.faults = [error, *(fault for fault in found.faults if fault.code != "annotation-outside")]
        found.warnings = []
    found.warnings += [_unread(scan) for scan in found.unread]
    return found


def faults_across(entries: Iterable[ScanEntry]) -> list[InputError]:
    """What no dataset shows alone: one scan under two names, one patient in two datasets."""
    return [*_repeated(entries := list(entries)), *_same_patients(entries)]


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


def _centres(annotations: Iterable[Annotation]) -> np.ndarray:
    """RAS mm, (N, 3); N may be 0."""
    return np.array([a.centre_mm for a in annotations]).reshape(-1, 3)


def _entry(scan: ScanFile, volume: Volume, brain_extracted: bool, with_phase: Preprocess | None) -> ScanEntry:
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
        "brain_extracted": brain_extracted,
    }
    if with_phase is not None:
        # Raises where the phase image is none.
        prepare(volume, with_phase, str(scan.path), read_phase(scan.path))
        entry["phase_sha256"] = sha256_of(phase_beside(scan.path))
    return entry


def _warnings_of_scan(scan: ScanFile, ras: Volume) -> list[InputError]:
    if (height := height_mm(ras)) >= LEAST_HEIGHT_MM:
        return []
    expected, remedy = f"a scan of at least {LEAST_HEIGHT_MM:g} mm from bottom to top", "check that this is the whole series"
    return [InputError("scan-coverage", scan.path, expected, f"{height:.0f} mm", remedy)]


def _faults_of_marks(scan: ScanFile, volume: Volume) -> list[InputError]:
    """Two labels at a place, two rows of a microbleed, and places outside the scan."""
    centres, found = _centres(scan.annotations), []
    labels = [a.label for a in scan.annotations]
    pairs = sorted(cKDTree(centres).query_pairs(ONE_LESION_MM)) if len(centres) else []
    if differing := [(i, j) for i, j in pairs if labels[i] != labels[j]]:
        i, j = differing[0]
        got = f"{labels[i]} and {labels[j]} within {ONE_LESION_MM:g} mm at {_place(centres[i])}{_more(len(differing) - 1)}"
        remedy = "keep one of the rows, or mark the place as possible"
        found.append(InputError("annotation-repeated", scan.path, "one label a place", got, remedy))
    if same := sum(labels[i] == labels[j] == "cmb" for i, j in pairs):
        got = f"{same} pair{'s' if same > 1 else ''} of rows nearer than {ONE_LESION_MM:g} mm"
        found.append(InputError("annotation-repeated", scan.path, "one row a microbleed", got, "merge the rows of several raters"))
    index = np.rint(index_from_world(centres, volume.affine))
    outside = ((index < 0) | (index >= volume.data.shape)).any(axis=1)
    if outside.any():
        got = f"{int(outside.sum())} of {len(outside)} outside it, the first at {_place(centres[outside][0])}"
        remedy = "give x_mm, y_mm, z_mm in scanner RAS (not LPS, not voxels)"
        found.append(InputError("annotation-outside", scan.path, "annotations inside the scan", got, remedy))
    return found


def _warnings_of_marks(scan: ScanFile, darkness: np.ndarray) -> list[InputError]:
    """Microbleeds that are not dark. darkness: (N,) of the rows with the label cmb, in their order."""
    centres = _centres(a for a in scan.annotations if a.is_cmb)
    bright = centres[darkness < NOT_DARK]
    if not len(bright):
        return []
    got = f"{len(bright)} of {len(centres)} in air or no darker than the tissue around: {', '.join(map(_place, bright[:SHOWN]))}"
    remedy = "look at them, for instance on the page of `cmb check --page`"
    return [InputError("annotation-not-dark", scan.path, "microbleeds darker than their surroundings", got, remedy)]


def _unread(scan: ScanFile) -> InputError:
    remedy = f"add its marks, or a row with the label {NONE} if it was read and nothing found; else it is not used"
    return InputError("scan-unread", scan.path, f"rows in {ANNOTATIONS}", "none", remedy)


def _place(centre_mm: np.ndarray) -> str:
    return f"({', '.join(f'{value:.1f}' for value in centre_mm)})"


def _more(n: int) -> str:
    return f", and {n} more" if n > 0 else ""
