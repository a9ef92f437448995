"""`cmb import` of DICOM: plan, convert, write. Nothing in the source is changed, and a killed import goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.importing.dicom_plan import Step, plan
from cmb_models.importing.dicom_series import Stack, files_of, read_headers, stacks_of
from cmb_models.importing.identity import Key, default_key, open_key
from cmb_models.io.annotations import write_annotations
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.io.series_role import MAGNITUDE, PHASE, SWI
from cmb_models.volume import Volume

CONVERSION_S = 300.0
THERE = "already imported"


def import_dicom(
    sources: Sequence[Path],
    dataset: Path,
    key_file: Path | None = None,
    dry_run: bool = False,
    on_step: Callable[[Step], None] = lambda step: None,
) -> list[Step]:
    """Import the SWI of every study in DICOM folders into a dataset, with its phase and magnitude.

    Args:
        sources: Folders of any depth, or files.
        dataset: Folder of the dataset; made if it is missing. Scans that are there already stay.
        key_file: Where the subject codes are kept; `identity.default_key` if None.
        dry_run: Only plan; nothing is written.
        on_step: Called after each step.

    Returns:
        One step for each stack of slices in the sources, in the order of subjects and series.

    Raises:
        InputError: If there is no DICOM image, a source is missing, an image names no patient, or the key file is unusable.
    """
    if missing := [str(source) for source in sources if not Path(source).exists()]:
        raise InputError("file-not-found", ", ".join(missing), "a folder of DICOM files", "no such folder", "check the path")
    headers, others = read_headers(files_of(map(Path, sources)))
    if not headers:
        got = f"{len(others)} other files" if others else "no file"
        remedy = "pass the folder that the scanner or the archive exported"
        raise InputError("import-nothing", ", ".join(map(str, sources)), "DICOM images", got, remedy)
    key_file, stacks = key_file or default_key(dataset), stacks_of(headers)
    key = open_key(key_file, dataset)
    if dry_run:
        return plan(stacks, key)
    Path(dataset).mkdir(parents=True, exist_ok=True)
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive(Path(dataset)), exclusive(key_file.parent):
        key = open_key(key_file, dataset)  # again: another import may have written it
        steps = plan(stacks, key)
        key.save()  # first: a killed import has its codes again
        done: dict[int, Step] = {}
        # SWI first: phase and magnitude are nothing without it.
        for n in sorted(range(len(steps)), key=lambda n: steps[n].stack.role in (PHASE, MAGNITUDE)):
            lost = {(s.subject, s.session) for s in done.values() if s.is_fault and s.stack.role == SWI}
            done[n] = _carried_out(steps[n], Path(dataset), key, lost)
            on_step(done[n])
        found = [done[n] for n in range(len(steps))]
        if not (Path(dataset) / ANNOTATIONS).exists() and any(s.target for s in found):
            write_annotations(Path(dataset) / ANNOTATIONS, [])
    return found


def _carried_out(step: Step, dataset: Path, key: Key, lost: Collection[tuple[str, str]]) -> Step:
    """Write a step's file. Returns the step, as a fault if that was not possible. lost: subjects and sessions without their SWI."""
    if step.target is None:
        return step
    if step.stack.role in (PHASE, MAGNITUDE) and (step.subject, step.session) in lost:
        return replace(step, target=None, reason="its SWI was not imported")
    target, series = dataset / step.target, step.stack.first.text("SeriesInstanceUID")
    name = target.resolve().as_posix()
    if target.exists():  # whole: it was renamed when it was
        if key.series.get(name, series) != series:
            return replace(step, target=None, reason=f"another series is there as {step.target.name}", is_fault=True)
        return replace(step, reason=THERE)
    try:
        volume = convert(step.stack)
    except InputError as error:
        return replace(step, target=None, reason=f"{error.expected} expected, got {error.got}", is_fault=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    key.series[name] = series
    key.save()
    write_volume(target, volume, _dtype(volume))
    return step


def convert(stack: Stack) -> Volume:
    """A stack as a volume, by dcm2niix, which knows the vendors' ways to store it.

    Raises:
        InputError: If dcm2niix makes no image of it, or one with another number of slices.
    """
    import dcm2niix

    with tempfile.TemporaryDirectory(prefix="cmb-import-") as name:
        source, out = Path(name, "in"), Path(name, "out")
        source.mkdir()
        out.mkdir()
        for n, header in enumerate(stack.headers):
            (source / f"{n:05}.dcm").symlink_to(header.file.resolve())
        # Not its sidecars, and of its headers nothing is kept: they hold times and descriptions.
        options = ["-b", "n", "-z", "n", "-m", "y", "-w", "1", "-f", "image"]
        environment = {**os.environ, "HOME": name}  # it reads and writes defaults there
        try:
            command = [dcm2niix.bin, *options, "-o", str(out), str(source)]
            subprocess.run(command, capture_output=True, timeout=CONVERSION_S, check=False, env=environment)
        except subprocess.TimeoutExpired as error:
            raise InputError(
                "import-conversion", stack.name, "a volume", f"none within {CONVERSION_S:g} s", "export it again"
            ) from error
        images = sorted(out.glob("*.nii"))
        if len(images) != 1:
            got = f"{len(images)} volumes" if images else "none"
            raise InputError("import-conversion", stack.name, "one volume", got, "export it uncompressed, or one series at a time")
        volume = read_volume(images[0])
    if volume.data.shape[2] != stack.slices:
        got = f"one of {volume.data.shape[2]}"
        raise InputError(
            "import-conversion", stack.name, f"a volume of {stack.slices} slices", got, "export the whole series again"
        )
    return volume


def _dtype(volume: Volume) -> type:
    """Scanners store whole numbers: 16 bits keep them, and half the space."""
    whole = np.array_equal(volume.data, np.rint(volume.data))
    return np.int16 if whole and np.abs(volume.data).max(initial=0) < 2**15 else np.float32


def summary(steps: Iterable[Step]) -> str:
    """How many subjects, scans and series, in one sentence."""
    steps = list(steps)
    subjects = {s.subject for s in steps if s.target}
    scans = sum(s.target is not None and s.stack.role == SWI for s in steps)
    skipped, faults = sum(not s.target and not s.is_fault for s in steps), sum(s.is_fault for s in steps)
    counts = ((len(subjects), "subject"), (scans, "SWI scan"))
    found = ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in counts)
    return f"{found}; {skipped} series skipped, {faults} not usable"
