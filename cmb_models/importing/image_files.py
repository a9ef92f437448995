"""NIfTI, MetaImage and NRRD files as images to import.

What each shows is said by its name, its sidecar or its header; where none of them says, by its voxels.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.importing.file_names import LABELS, Name, read_name, relative_parts
from cmb_models.importing.identity import OF_FILES, Who, one_spelling
from cmb_models.importing.technical import kept
from cmb_models.io import formats, nifti
from cmb_models.io.series_role import GRE, MAGNITUDE, NOT_NAMED, PHASE, SKIPPED, SWI, SeriesFacts, role_of
from cmb_models.io.sidecar import ZEROED, facts_of, read_sidecar, stated_role
from cmb_models.volume import Volume, corners_apart_mm

SUFFIXES = (*nifti.SUFFIXES, *formats.SUFFIXES)
UNNAMED = "neither name nor sidecar says what it shows: used as SWI"
MASK_VALUES, MASK_ZEROS = 64, 0.9  # label masks of lesions: so many values at most, and so large a share of zeros
NOBODY = Who("")
BINARY = 3  # values of any mask, such as one of the brain
SAMPLE = 100_000  # voxels that are examined first
INTEGER = 1e-3  # by which stored labels may differ from whole numbers
ECHO = re.compile(r"(?P<rest>.+)_e(?P<echo>\d{1,2})(?P<phase>_ph)?")  # as dcm2niix names the echoes of a series
BIDS_ECHO = re.compile(r"(^|_)echo-[^_]+")
LABEL = re.compile(r"(ses-[a-z0-9]+)?", re.IGNORECASE)  # of BIDS; others may be dates with signs, or names
DATE = re.compile(r"\d{6}")
SAME_GRID_MM = 0.1


@dataclass(frozen=True)
class ImageFile:
    """One file that may become a file of a dataset (`plan.Image`).

    Args:
        file: The file.
        name: Its path in the source.
        role: SWI, PHASE, MAGNITUDE, GRE or SKIPPED.
        reason: Why it is skipped, or what to beware of.
        fault: What is wrong with it, or ''.
        who: Whose it is.
        study: Its session, as the path says.
        session_label: The session to keep; None to number them.
        acquisition: What distinguishes the acquisitions of one session.
        shape: (I, J, K); () if unknown.
        affine: (4, 4), voxel index to RAS mm.
        nan_as_air: Whether NaN voxels that touch the border are set to 0.
        number: Which of several volumes of the file; None if it has one.
        series: What the echoes of one series have in common; '' if the name says of no echo.
        slices: Nothing: a file has all.
        sidecar: The values of its sidecar.
    """

    file: Path
    name: str
    role: str
    reason: str = ""
    fault: str = ""
    who: Who = NOBODY
    study: str = ""
    session_label: str | None = None
    acquisition: str = ""
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    nan_as_air: bool = False
    number: int | None = None
    series: str = ""
    slices: None = None
    sidecar: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def place(self) -> Path:
        return self.file

    @property
    def when(self) -> tuple[str, ...]:
        return (self.study,)

    @property
    def echo_ms(self) -> float | None:
        return facts_of(self.sidecar).echo_ms

    @cached_property
    def uid(self) -> str:
        """SHA-256 of the file, and of the voxels' file where the header is one of its own."""
        files = [self.file, *(f for ending in (".raw", ".zraw", ".raw.gz") if (f := self.file.with_suffix(ending)).is_file())]
        is_pair = self.file.suffix.lower() in (".mhd", ".nhdr")
        sums = [sha256_of(f) for f in (files if is_pair else files[:1])] + ([str(self.number)] if self.number else [])
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()

    def same_grid(self, other: ImageFile) -> bool:
        """Whether two files are of one acquisition, and their voxels lie at the same places."""
        if self.affine is None or other.affine is None or (self.shape, self.acquisition) != (other.shape, other.acquisition):
            return False
        return corners_apart_mm(self.affine, other.affine, self.shape) <= SAME_GRID_MM

    def read(self) -> tuple[Volume, dict[str, Any]]:
        volume, values = read_any(self.file, self.number), kept(self.sidecar)
        volume, zeroed = finite(volume, self.file, self.nan_as_air)
        if self.role != PHASE and is_mask(volume.data):
            remedy = "import it with `cmb import marks`"
            raise InputError("scan-intensity", self.file, "an image", "a label mask", remedy)
        return volume, values | ({ZEROED: zeroed} if zeroed else {})


def is_image(file: Path) -> bool:
    """Whether a file is named as one of the formats read here."""
    return file.name.lower().endswith(SUFFIXES)


def read_any(file: Path, number: int | None = None) -> Volume:
    """Read a file of any of the formats. number: which of several volumes, as of `nifti.read_volume`."""
    return formats.read_image(file) if file.suffix.lower() in formats.SUFFIXES else nifti.read_volume(file, number=number)


def image_files(
    files: Iterable[tuple[Path, Path]],
    keep_subjects: bool = False,
    nan_as_air: bool = False,
    by_folder: bool = False,
    number: int | None = None,
) -> list[ImageFile]:
    """All files as images, in their order; each once.

    Args:
        files: Each file with the source that it was found in.
        keep_subjects: Whether the labels of subjects and sessions are kept, for a set that has pseudonyms already.
        nan_as_air: Whether NaN voxels that touch the border are set to 0.
        by_folder: Whether folders name the patients, where no BIDS label does.
        number: Which volume to take of files with several, from 1; None to refuse them.

    Raises:
        InputError: If a MetaImage or NRRD file is to be read and SimpleITK is not installed.
    """
    unique = {file.resolve(): (file, source) for file, source in reversed(list(files))}
    found, names = [], []
    for file, source in sorted(unique.values(), key=lambda pair: pair[0]):
        folders, root = relative_parts(file, source)
        name = _name(file, folders, root, by_folder)
        shown = Path(*folders, file.name).as_posix()
        image = ImageFile(file, shown, name.role, name.reason, nan_as_air=nan_as_air)
        if name.role != SKIPPED:
            image = replace(image, sidecar=read_sidecar(file))
            image = _identified(_opened(image, number), name, keep_subjects)
        found.append(image)
        names.append(name)
    return _decided(found, names)


def _stem(file: Path) -> str:
    ending = next(s for s in SUFFIXES if file.name.lower().endswith(s))
    return file.name[: -len(ending)]


def _name(file: Path, folders: Sequence[str], root: str, by_folder: bool) -> Name:
    """What a file's name says, with the echo that dcm2niix appends to it: else two echoes would be two patients."""
    match = ECHO.fullmatch(stem := _stem(file))
    if not match or read_sidecar(file).get("EchoNumber") != int(match["echo"]):
        return read_name(stem, folders, root, by_folder)
    name = read_name(match["rest"] + (match["phase"] or ""), folders, root, by_folder)
    return replace(name, acquisition=f"echo-{match['echo']}")


def _identified(image: ImageFile, name: Name, keep_subjects: bool) -> ImageFile:
    if image.role == SKIPPED:
        return image
    if not name.subject:
        return replace(image, fault=name.reason or image.fault)
    if keep_subjects and (fault := _no_label(name)):
        return replace(image, fault=image.fault or fault)
    who = Who(f"{OF_FILES}{name.subject}", label=f"sub-{name.subject}" if keep_subjects else "")
    session = name.session if keep_subjects else None
    series = BIDS_ECHO.sub("", name.acquisition) or "-" if BIDS_ECHO.search(name.acquisition) else ""
    return replace(image, who=who, study=name.session, session_label=session, acquisition=name.acquisition, series=series)


def _no_label(name: Name) -> str:
    """Why a name's subject or session cannot be kept; '' if they are labels of BIDS that say nothing else."""
    if not name.is_bids:
        return "not named by a sub- label of BIDS, which alone is kept: leave out --keep-subjects"
    if not LABEL.fullmatch(name.session):
        return "its session is no label of letters and digits: leave out --keep-subjects"
    return "its session is a date: leave out --keep-subjects" if DATE.search(name.session) else ""


def _opened(image: ImageFile, number: int | None) -> ImageFile:
    """With what the sidecar and the header say; as SKIPPED where they, or the voxels of an image without a telling name, say so."""
    described = ""
    try:
        if image.file.suffix.lower() in formats.SUFFIXES:
            formats.require_package()
            shape, affine = formats.grid_of(image.file)
        else:
            shape, affine, described = nifti.read_header(image.file, number)
        if len(shape) > 3:
            image = replace(image, number=number, name=f"{image.name}, volume {number} of {shape[3]}")
        image = replace(image, shape=shape[:3], affine=affine)
    except InputError as error:
        if error.code == "package-missing":
            raise
        image = replace(image, fault=f"{error.expected} expected, got {error.got}; {error.remedy}")
    facts = facts_of(image.sidecar)
    by_sidecar = role_of(facts) if not image.role and facts.words else stated_role(facts)
    if by_sidecar:
        role, reason = by_sidecar
        if role == SKIPPED:
            return replace(image, role=SKIPPED, reason=f"{reason}, by its sidecar")
        if image.role in ("", SWI, GRE):
            image = replace(image, role=role)
    if not image.role:
        role, reason = role_of(SeriesFacts(description=described))
        if role == SKIPPED and reason != NOT_NAMED:
            return replace(image, role=SKIPPED, reason=f"{reason}, by its header")
        if not image.fault and _is_mask_file(image.file, number):
            return replace(image, role=SKIPPED, reason=LABELS)
    return image


def _is_mask_file(file: Path, number: int | None) -> bool:
    try:
        return is_mask(read_any(file, number).data)
    except InputError:
        return False  # found again, and reported, when it is imported


def _decided(images: Sequence[ImageFile], names: Sequence[Name]) -> list[ImageFile]:
    """With a role for those whose names do not say: an SWI, unless another file of the session is named so."""
    groups: dict[str, set[str]] = defaultdict(set)
    for image, name in zip(images, names, strict=True):
        if image.role != SKIPPED:
            groups[one_spelling(OF_FILES + name.subject)].add(name.group)
    named = {(i.who, i.study) for i, name in zip(images, names, strict=True) if i.role == SWI}
    result = []
    for image, name in zip(images, names, strict=True):
        found = groups[one_spelling(OF_FILES + name.subject)]
        if image.role != SKIPPED and len(found) > 1:
            image = replace(image, fault=image.fault or _ambiguous(name.subject, found))
        has_swi = (image.who, image.study) in named
        if not image.role:
            reason = "not named as SWI, as another file of the session is" if has_swi else UNNAMED
            image = replace(image, role=SKIPPED if has_swi else SWI, reason=reason)
        elif image.role == MAGNITUDE and not name.is_named_swi and not has_swi:
            image = replace(image, role=GRE, reason="a magnitude, not SWI")
        result.append(image)
    return result


def _ambiguous(subject: str, groups: Iterable[str]) -> str:
    folders = " and ".join(f"{group}/" if group else "the source" for group in sorted(groups))
    remedy = "name the folders ses-01, ses-02 if it is one patient; else --subject-from folder, or import each with its own --key"
    return f"{subject} is in {folders}: {remedy}"


def is_mask(data: np.ndarray) -> bool:
    """Whether voxels (I, J, K) are labels: few whole numbers, mostly 0."""
    flat = data.reshape(-1)
    if not _are_labels(flat[:: max(1, flat.size // SAMPLE)]) or not _are_labels(flat):
        return False
    zeros = 1 - np.count_nonzero(flat) / flat.size
    return bool(zeros > 0 and (len(np.unique(np.rint(flat))) <= BINARY or zeros >= MASK_ZEROS))


def _are_labels(values: np.ndarray) -> bool:
    """Whether values (N,) are few and whole."""
    whole = np.rint(values)
    return bool(np.all(np.abs(values - whole) <= INTEGER)) and len(np.unique(whole)) <= MASK_VALUES


def finite(volume: Volume, case: object, nan_as_air: bool) -> tuple[Volume, int]:
    """A volume without NaN, and how many voxels were set to 0: those that touch the border through other NaN.

    Raises:
        InputError: If there are infinite voxels, or NaN, unless all touch the border and `nan_as_air` is true.
    """
    bad = ~np.isfinite(volume.data)
    if not bad.any():
        return volume, 0
    nan = np.isnan(volume.data)
    inside = bad & ~_connected_to_border(nan)
    if inside.any():
        got, remedy = f"{int(inside.sum())} NaN or infinite ones within the image", "check the export"
    elif not nan_as_air:
        got, remedy = f"{int(bad.sum())} NaN around the image", "pass --nan-as-air to set them to 0"
    else:
        return Volume(np.where(nan, np.float32(0), volume.data), volume.affine), int(nan.sum())
    raise InputError("scan-not-finite", case, "finite voxels", got, remedy)


def _connected_to_border(voxels: np.ndarray) -> np.ndarray:
    """Those of boolean voxels (I, J, K) that are connected to the border of the volume by faces."""
    from scipy import ndimage

    labels, _ = ndimage.label(voxels)
    is_outside = np.zeros(int(labels.max()) + 1, dtype=bool)
    for axis in range(3):
        for n in (0, -1):
            is_outside[labels.take(n, axis)] = True
    is_outside[0] = False
    return np.asarray(is_outside[labels])
