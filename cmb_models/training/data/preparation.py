"""The training scans on the working grid, by the code that the server runs; locked scans are never opened here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmb_models.config.params import LesionBankSettings, Preprocess
from cmb_models.dataset.entries import ScanEntry, SubjectSplit
from cmb_models.dataset.layout import ScanFile, find_scans, phase_beside, read_phase, require_indexed
from cmb_models.dataset.leakage import check_split
from cmb_models.dataset.statistics import intensities, sides
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.training.data.examples import PHASE_ENDING, Example, save_example
from cmb_models.training.synthesis.lesion_bank import lesion_bank_name, write_lesion_bank
from cmb_models.training.validation.progress_count import count_step

if TYPE_CHECKING:
    from cmb_models.training.validation.pool import TrainingPool

ROUNDING = 1e-3  # of prepared images, in their own units: tissue is around 0 with a spread of 1
SEEN_S = 60
Track = Callable[[list, str], Iterable]  # a progress bar over a list, with what is done to it


@dataclass(frozen=True)
class PrepareJob:
    """A scan to bring to the working grid. entry: its own of data/index.json. folder: to write to. with_lesions: see Example."""

    scan: ScanFile
    settings: Preprocess
    entry: ScanEntry
    folder: Path
    with_lesions: bool


@dataclass(frozen=True)
class Written:
    """What is known of a scan that was prepared. native_mm: its own voxel size in RAS order. statistics: dataset.statistics."""

    key: str
    native_mm: tuple[float, float, float]
    statistics: dict[str, float | None]


def prepare_training(
    raw_dir: Path,
    index: list[ScanEntry],
    split: SubjectSplit,
    settings: Preprocess,
    lesion_bank: LesionBankSettings,
    folder: Path,
    track: Track = lambda items, _: items,
    pool: TrainingPool | None = None,
) -> dict[str, dict[str, float | None]]:
    """Write the examples of all scans whose subject is in a fold, and the synthetic lesions for their voxel sizes.

    index: entries of data/index.json; track: a progress bar; pool: workers that see the same files; None for this process.

    Returns the voxel sides and intensities of each scan by its key, with which those of other scans are compared later.

    Raises InputError for a split that does not fit the index, a file that is not the one the index was made from, and a
    preparation that depends on more than the scan itself.
    """
    check_split(split, index)
    known = {e["key"]: e for e in index if e["subject"] in split["folds"]}
    raw_dir = raw_dir.absolute() if pool else raw_dir  # workers run in folders of their own
    found = {s.key: s for d in sorted({e["dataset"] for e in known.values()}) for s in find_scans(raw_dir / d)}
    if missing := sorted(set(known) - set(found)):
        raise InputError("scan-not-found", raw_dir, "the scans of data/index.json", f"no {', '.join(missing)}", "run `dvc repro`")
    scans = [found[key] for key in sorted(known)]
    jobs = [PrepareJob(scan, settings, known[scan.key], folder, lesion_bank.lesions > 0) for scan in scans]
    what = "preprocess scans"
    written = list(pool.map(write_prepared, jobs, len(jobs), what) if pool else map(write_prepared, track(jobs, what)))
    _require_written(jobs)
    sizes = {one.native_mm for one in written}
    write_lesion_bank(folder, sizes, settings, lesion_bank, lambda boxes: track(boxes, "simulate the lesion bank"), pool)
    # By a worker, if workers prepared the scans: only they may keep something of the others.
    alone = pool.map(prepared_alone, jobs[:1], 1, "prepare one again") if pool else map(prepared_alone, jobs[:1])
    if not all(alone):
        got = f"{jobs[0].scan.key} is another picture after the other scans"
        raise InputError(
            "leakage", "preprocess", "images that depend on their own scan alone", got, "take no statistics over several scans"
        )
    return {one.key: one.statistics for one in written}


def write_prepared(job: PrepareJob) -> Written:
    """Write a scan's example. Raises InputError for another file than the index has."""
    example, written = _prepared(job.scan, job.settings, job.entry)
    save_example(job.folder, example, lesion_bank_name(written.native_mm) if job.with_lesions else "")
    count_step(0)
    return written


def _prepared(scan: ScanFile, settings: Preprocess, entry: ScanEntry) -> tuple[Example, Written]:
    """A scan's example, without synthetic lesions, and what is known of the scan. entry: its own of data/index.json."""
    files, phase = {scan.path: entry["sha256"]}, None
    if settings.phase:
        phase = read_phase(scan.path)
        files[phase_beside(scan.path)] = entry.get("phase_sha256", "")
    for path, sha256 in files.items():
        require_indexed(path, sha256)
    volume = read_volume(scan.path)
    prepared = prepare(volume, settings, str(scan.path), phase)
    example = Example(
        key=scan.key,
        subject=scan.subject_key,
        prepared=prepared,
        annotations=scan.annotations,
        source_affine=np.asarray(volume.affine),
        sha256=entry["sha256"],
        content_sha256=entry.get("content_sha256", ""),
        phase_sha256=entry.get("phase_sha256", "") if settings.phase else "",
    )
    statistics: dict[str, float | None] = {**sides(volume.spacing_mm), **intensities(volume)}
    return example, Written(scan.key, volume.to_ras().spacing_mm, statistics)


def prepared_alone(job: PrepareJob) -> bool:
    """Whether a scan that is prepared again, after all others, is what was written of it.

    Statistics that run over several scans would change it. They let one scan into another's picture, the locked ones' at last, and
    the server has none of them. Rounding may differ between the processors of two workers.
    """
    again = _prepared(job.scan, job.settings, job.entry)[0].prepared
    pictures = {f"{job.scan.key}.npy": again.image}
    pictures |= {} if again.phase is None else {f"{job.scan.key}{PHASE_ENDING}": again.phase}
    count_step(0)
    written = {name: np.load(job.folder / name, mmap_mode="r") for name in pictures}
    return all(
        written[name].shape == picture.shape and np.allclose(written[name], picture, rtol=0, atol=ROUNDING, equal_nan=True)
        for name, picture in pictures.items()
    )


def _require_written(jobs: list[PrepareJob]) -> None:
    """Raise InputError for scans that are not there: a worker wrote them where this process does not see them."""
    for _ in range(SEEN_S):  # a network file system shows files of other machines late
        missing = [job.scan.key for job in jobs if not (job.folder / f"{job.scan.key}.npy").is_file()]
        if not missing:
            return
        time.sleep(1)
    remedy = "mount the workspace's storage at the same path on client and workers"
    raise InputError("worker-inputs", jobs[0].folder, "all prepared scans", f"no {', '.join(missing[:5])}", remedy)
