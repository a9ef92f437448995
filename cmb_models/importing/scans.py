"""`cmb import`: plan, read, write. Nothing in the source is changed, and a killed import continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.errors import InputError
from cmb_models.files import exclusive, remove_partial, system_reason, writable, write_json
from cmb_models.importing.file_names import files_of
from cmb_models.importing.identity import Key, default_key, open_key
from cmb_models.importing.image_files import ImageFile, image_files, is_image
from cmb_models.importing.plan import Image, Step, failed, plan
from cmb_models.importing.preconditions import require_own_key, require_places, require_private, require_pulled
from cmb_models.io.annotations import Readings, read_readings, write_annotations
from cmb_models.io.nifti import read_header, read_volume, write_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.io.series_role import MAGNITUDE, PHASE
from cmb_models.io.sidecar import sidecar_of, sidecars_of
from cmb_models.volume import Volume

THERE = "already imported"
Kind = Literal["dicom", "nifti"]


@dataclass(frozen=True)
class Options:
    """How sources are read.

    Args:
        kind: "dicom" or "nifti": leave out files of the other kind; None: take both.
        keep_subjects: Whether image files keep their subjects' labels, as of a public set that has pseudonyms already.
        by_folder: Whether folders name the patients of image files, where no BIDS label does; else the files' names do.
        nan_as_air: Whether NaN voxels that are connected to the border are set to 0.
        echo_ms: Echo time of the one to take of several echoes of one series.
        volume: Which volume, from 1, to take of NIfTI files with several, such as echoes; None to refuse them.
        gre_as_swi: Whether a T2*-weighted gradient echo becomes the scan of a session without SWI.
        may_be_renamed: Whether patients of one ID and birth date are one, however they are named.
    """

    kind: Kind | None = None
    keep_subjects: bool = False
    by_folder: bool = False
    nan_as_air: bool = False
    echo_ms: float | None = None
    volume: int | None = None
    gre_as_swi: bool = False
    may_be_renamed: bool = False


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Args:
        steps: One for each image.
        others: Files that are no images, or of the kind that was left out.
        unread: Files and folders that cannot be read, with the reason: there may be images among them.
    """

    steps: list[Step]
    others: list[Path]
    unread: Mapping[Path, str]


def import_scans(
    sources: Sequence[Path],
    dataset: Path,
    key_file: Path | None = None,
    dry_run: bool = False,
    options: Options | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Imported:
    """Import the SWI of every session in folders of DICOM or image files into a dataset, with its phase and magnitude.

    Args:
        sources: Folders of any depth, or files.
        dataset: Folder of the dataset; made if it is missing. Scans that are there already stay.
        key_file: Where the subject codes are kept; `identity.default_key` if None.
        dry_run: Only plan and read; nothing is written.
        options: How the sources are read.
        on_step: Called after each step.

    Returns:
        One step for each stack of slices and each image file in the sources, in the order of subjects and series.

    Raises:
        InputError: If there is no image, a source is missing, the dataset was not pulled, or the key file is unusable.
    """
    options, dataset = options or Options(), Path(dataset)
    key_file = Path(key_file or default_key(dataset)).resolve()  # a link stays: what it names is written
    require_places(dataset, key_file)
    require_pulled(dataset)
    require_private(key_file, dataset, map(Path, sources))
    if missing := [str(source) for source in sources if not Path(source).exists()]:
        raise InputError("file-not-found", ", ".join(missing), "a folder of images", "no such folder", "check the path")
    unread: dict[Path, str] = {}
    images, others = _images_of([Path(source) for source in sources], dataset, options, unread)
    if not images:
        first = next((f"; {len(unread)} that cannot be read, the first {path}: {why}" for path, why in unread.items()), "")
        got = (f"{len(others)} other file{'s' if len(others) > 1 else ''}" if others else "no file") + first
        remedy = "pass the folder that the scanner or the archive exported, unpacked"
        raise InputError("import-nothing", ", ".join(map(str, sources)), "DICOM images or NIfTI files", got, remedy)
    planned = partial(plan, echo_ms=options.echo_ms, gre_as_swi=options.gre_as_swi, may_be_renamed=options.may_be_renamed)
    key = open_key(key_file, dataset)
    if not options.keep_subjects:
        require_own_key(key, dataset)
    if dry_run:
        return Imported([_checked(step, dataset, key) for step in planned(images, key)], others, unread)
    with writable(dataset), writable(key_file.parent, 0o700):
        pass
    with exclusive(dataset), exclusive(key_file.parent):
        remove_partial(dataset, "**/*")
        key = open_key(key_file, dataset)  # again: another import may have written it
        steps = planned(images, key)
        key.save()  # first: a killed import has its codes again
        done: dict[int, Step] = {}
        # Phase and magnitude last: they are nothing without their SWI.
        for n in sorted(range(len(steps)), key=lambda n: steps[n].image.role in (PHASE, MAGNITUDE)):
            lost = {(s.subject, s.session) for s in done.values() if s.is_fault and s.image.role not in (PHASE, MAGNITUDE)}
            done[n] = _carried_out(steps[n], dataset, key, lost)
            on_step(done[n])
        found = [done[n] for n in range(len(steps))]
        if not (dataset / ANNOTATIONS).exists() and any(s.target for s in found):
            write_annotations(dataset / ANNOTATIONS, [])
    return Imported(found, others, unread)


def _images_of(sources: Sequence[Path], dataset: Path, options: Options, unread: dict[Path, str]) -> tuple[list[Image], list[Path]]:
    """All images of the sources, and the files that are none. A dataset within a source is no part of it. unread: is added to."""

    def on_error(error: OSError) -> None:
        unread[Path(error.filename)] = system_reason(error)

    own = dataset.resolve()
    found = [(f, source) for source in sources for f in files_of([source], on_error)]
    pairs = [(f, source) for f, source in found if not f.parent.resolve().is_relative_to(own)]
    named = [pair for pair in pairs if is_image(pair[0])]
    stacks: list[Image] = []
    others = [file for file, _ in pairs if not is_image(file)]
    if options.kind != "nifti" and others:
        stacks, others = _dicom(others, unread)
    if options.kind == "dicom":
        others, named = others + [file for file, _ in named], []
    if stacks and options.keep_subjects:
        got, remedy = "DICOM images", "leave it out, or pass --from nifti"
        raise InputError("options-conflict", "--keep-subjects", "image files alone", got, remedy)
    stems = {sidecar for file, _ in named for sidecar in sidecars_of(file)} | {
        file.with_suffix(s) for file, _ in named for s in (".raw", ".zraw")
    }
    others = [file for file in others if file not in stems]
    files = image_files(named, options.keep_subjects, options.nan_as_air, options.by_folder, options.volume)
    return [*stacks, *files], others


def _dicom(files: Sequence[Path], unread: dict[Path, str]) -> tuple[list[Image], list[Path]]:
    """The stacks of slices among files, and the files that are no DICOM images."""
    try:
        from cmb_models.importing.dicom.series import read_headers, stacks_of
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[dicom]', or pass --from nifti"
        raise InputError("package-missing", files[0], "the packages that read DICOM", f"no {error.name}", remedy) from error
    headers, others, faulty = read_headers(files)
    unread |= faulty
    return [*stacks_of(headers)], others


def _checked(step: Step, dataset: Path, key: Key) -> Step:
    """The step of a dry run: image files are read, which takes no longer than to plan."""
    if step.target and (dataset / step.target).exists():
        recorded = key.series.get((dataset.resolve().name / step.target).as_posix())
        if recorded == step.image.uid:
            return replace(step, reason=THERE)
    if step.target is None or not isinstance(step.image, ImageFile):
        return step
    try:
        step.image.read()
    except InputError as error:
        return failed(step.image, step.subject, step.session, error)
    return step


def _carried_out(step: Step, dataset: Path, key: Key, lost: Collection[tuple[str, str]]) -> Step:
    """Write a step's file. Returns the step, as a fault if that was not possible. lost: subjects and sessions without their SWI."""
    if step.target is None:
        return step
    if step.image.role in (PHASE, MAGNITUDE) and (step.subject, step.session) in lost:
        return replace(step, target=None, reason="its SWI was not imported")
    target = dataset / step.target
    # The file itself may be DVC's link into its cache.
    name, known = (dataset.resolve().name / step.target).as_posix(), key.series
    try:
        if isinstance(step.image, ImageFile) and (same := _elsewhere(step.image.uid, name, dataset, known)):
            return replace(step, target=None, reason=f"the same file as the imported {same}")
        if target.exists():  # whole: it was renamed when it was
            if not _is_same(step.image, target, known.get(name)):
                reason = f"another series is there as {step.target.name}"
                if isinstance(step.image, ImageFile):
                    reason = f"another image is there as {step.target.name}; if it is another patient's, pass another --key"
                return replace(step, target=None, reason=reason, is_fault=True)
            if (there := _slices_there(step.image, target)) is not None:
                reason = f"imported with {there} slices, of which there are {step.image.slices} now: remove {target.name} first"
                return replace(step, target=None, reason=reason, is_fault=True)
            return replace(step, reason="; ".join(filter(None, (THERE, step.reason))))
        if known.get(name, step.image.uid) != step.image.uid and (left := _left_of_earlier(step, dataset)):
            reason = f"another image than the earlier {target.name}, of which there are {left}: remove them first"
            return replace(step, target=None, reason=reason, is_fault=True)
        volume, values = step.image.read()
    except InputError as error:
        return failed(step.image, step.subject, step.session, error)
    known[name] = step.image.uid
    key.save()
    if step.image.role not in (PHASE, MAGNITUDE):
        write_json(sidecar_of(target), values)
    write_volume(target, volume, _dtype(volume))
    return step


def _left_of_earlier(step: Step, dataset: Path) -> str:
    """What a dataset still has of a removed scan, which another must not inherit; '' if nothing, and for phase and magnitude."""
    assert step.target is not None
    if step.image.role in (PHASE, MAGNITUDE):
        return ""
    readings = read_readings(dataset / ANNOTATIONS) if (dataset / ANNOTATIONS).exists() else Readings([], [])
    read = [*((r.subject, r.session) for r in readings.annotations), *((r.subject, r.session) for r in readings.empty)]
    rows = read.count((step.subject, step.session))
    folder, stem = (dataset / step.target).parent, "_".join(p for p in (step.subject, step.session) if p)
    parts = sorted(p.name for p in folder.glob(f"{stem}_part-*") if p.name != step.target.name)
    return ", ".join([*([f"{rows} rows of {ANNOTATIONS}"] if rows else []), *parts])


def _elsewhere(uid: str, name: str, dataset: Path, known: dict[str, str]) -> str:
    """Name of another file of the dataset that was imported from the same one; '' if there is none. name: as in `Key.series`."""
    dataset = dataset.resolve()
    paths = [dataset.parent / path for path, other in known.items() if other == uid and path != name]
    return next((p.name for p in paths if p.is_relative_to(dataset) and p.exists()), "")


def _is_same(image: Image, target: Path, recorded: str | None) -> bool:
    """Whether a file of the dataset was imported from an image: as recorded, or by its voxels where another key was in use."""
    if recorded is not None:
        return recorded == image.uid
    return content_sha256(read_volume(target)) == content_sha256(image.read()[0])


def _slices_there(image: Image, target: Path) -> int | None:
    """Number of slices in a file of the dataset, if the image has another one: an export that was not complete at the import."""
    there = None if image.slices is None else read_header(target)[0][2]
    return None if there == image.slices else there


def _dtype(volume: Volume) -> type:
    """Scanners store whole numbers: 16 bits keep them, and half the space."""
    whole = np.array_equal(volume.data, np.rint(volume.data))
    return np.int16 if whole and np.abs(volume.data).max(initial=0) < 2**15 else np.float32


def summary(steps: Iterable[Step]) -> str:
    """How many subjects, scans and series, in one sentence."""
    steps = list(steps)
    subjects = {s.subject for s in steps if s.target}
    scans = sum(s.target is not None and "part-" not in s.target.name for s in steps)
    skipped, faults = sum(not s.target and not s.is_fault for s in steps), sum(s.is_fault for s in steps)
    counts = ((len(subjects), "subject"), (scans, "SWI scan"))
    found = ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in counts)
    return f"{found}; {skipped} skipped, {faults} not usable"
