"""DICOM files of any folder as stacks of slices, and what each stack is: an SWI, its phase or magnitude, or something to skip.

Only headers are read here.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from cmb_models.files import system_reason
from cmb_models.importing.dicom.convert import convert
from cmb_models.importing.dicom.files import dicom_files
from cmb_models.importing.identity import Who, id_of_one, name_letters, plain
from cmb_models.importing.technical import kept
from cmb_models.io.series_role import MAGNITUDE, PHASE, SKIPPED, SWI, SeriesFacts, role_of
from cmb_models.volume import Volume

SAME_DIRECTION = 1e-3  # by which cosines of one stack may differ
WORD = re.compile(r"[^\W_]+")
SHORTEST_NAME = 3  # letters of a part of a name that is looked for within words
SAME_PLACE_MM = 0.1  # by which positions of one grid may differ
SAME_SPACING_MM = 1e-3
SAME_GAP = 0.05  # share by which gaps between slices may differ
TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Manufacturer", "ImageType"),
    *(
        "SeriesDescription",
        "ProtocolName",
        "SequenceName",
        "PulseSequenceName",
        "ScanningSequence",
        "SequenceVariant",
        "SeriesNumber",
    ),
    *(
        "AcquisitionNumber",
        "AcquisitionContrast",
        "InstanceNumber",
        "EchoTime",
        "EchoNumbers",
        "InversionTime",
        "ComplexImageComponent",
    ),
    *(
        "Rows",
        "Columns",
        "PixelSpacing",
        "SpacingBetweenSlices",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "NumberOfFrames",
    ),
    *("StudyDate", "StudyTime", "PatientID", "PatientName", "PatientBirthDate"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


Place = tuple[float, ...]


def _first(values: pydicom.Dataset, sequence: str) -> pydicom.Dataset:
    """The first item of a sequence; an empty one if there is none."""
    return next(iter(values.get(sequence) or ()), pydicom.Dataset())


@dataclass(frozen=True)
class Header:
    """What is used of one file's header. Names and dates of the patient stay in memory (identity.py)."""

    file: Path
    values: pydicom.Dataset

    def text(self, name: str) -> str:
        """A value as text; '' if it is missing."""
        value = self.values.get(name)
        return "" if value is None else str(value).strip()

    def numbers(self, name: str) -> tuple[float, ...]:
        """A value's numbers; () if it is missing or not readable, or one is not finite."""
        value = self.values.get(name)
        try:
            found = tuple(float(v) for v in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value]))
        except (TypeError, ValueError, OverflowError):
            return ()
        return found if all(map(math.isfinite, found)) else ()

    @property
    def frames(self) -> int:
        """Number of slices in the file."""
        return int((self.numbers("NumberOfFrames") or (1,))[0])

    @property
    def places(self) -> list[tuple[Place, Place]]:
        """Orientation and position of each slice; () where they are missing."""
        if self.frames == 1 and "PerFrameFunctionalGroupsSequence" not in self.values:
            return [(self.numbers("ImageOrientationPatient"), self.numbers("ImagePositionPatient"))]
        shared = _first(self.values, "SharedFunctionalGroupsSequence")
        found = []
        for frame in self.values.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()] * self.frames:
            plane = _first(frame, "PlaneOrientationSequence") or _first(shared, "PlaneOrientationSequence")
            position = Header(self.file, _first(frame, "PlanePositionSequence")).numbers("ImagePositionPatient")
            found.append((Header(self.file, plane).numbers("ImageOrientationPatient"), position))
        return found

    @property
    def spacing(self) -> tuple[float, ...]:
        """PixelSpacing in mm, also of multi-frame files; () where it is missing."""
        frames = (_first(self.values, f"{which}FunctionalGroupsSequence") for which in ("Shared", "PerFrame"))
        measures = (Header(self.file, _first(frame, "PixelMeasuresSequence")) for frame in frames)
        return next((found for header in (self, *measures) if len(found := header.numbers("PixelSpacing")) == 2), ())

    @property
    def kinds(self) -> frozenset[str]:
        """The values of ImageType, in capitals, and of multi-frame files whether they are of magnitude or phase."""
        value = self.values.get("ImageType") or ()
        words = [*([value] if isinstance(value, str) else value), self.text("ComplexImageComponent")]
        return frozenset(str(v).strip().upper() for v in words if str(v).strip())

    def facts(self, slices: int) -> SeriesFacts:
        """What it says of its series, which has so many slices."""
        return SeriesFacts(
            kinds=self.kinds,
            description=self.text("SeriesDescription"),
            protocol=self.text("ProtocolName"),
            sequence=f"{self.text('SequenceName')} {self.text('PulseSequenceName')}",
            scanning_sequence=self.text("ScanningSequence"),
            modality=self.text("Modality"),
            echo_ms=next(iter(self.numbers("EchoTime")), None),
            slices=slices,
        )


@dataclass(frozen=True)
class Stack:
    """The images of one series that belong together: of one image type, echo and grid, by position.

    role: SWI, PHASE, MAGNITUDE, GRE or SKIPPED. reason: why it is skipped, or what to beware of. fault: what is wrong with a stack
    that would be used, or ''.
    """

    headers: tuple[Header, ...]
    role: str
    reason: str
    fault: str

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def name(self) -> str:
        """Number and description of its series, for messages, without what identifies the patient."""
        described = without_names(self.first.text("SeriesDescription"), self.first)
        return f"series {self.first.text('SeriesNumber') or '?'} {described or '(no description)'}"

    @property
    def place(self) -> Path:
        return self.first.file.parent

    @property
    def who(self) -> Who:
        number = id_of_one(self.first.text("PatientID"))
        name, born = self.first.text("PatientName"), self.first.text("PatientBirthDate")
        return Who(number or (f"{name}|{born}" if name and born else ""), born, name=name_letters(name) if number else "")

    @property
    def study(self) -> str:
        return self.first.text("StudyInstanceUID")

    @property
    def session_label(self) -> None:
        """Sessions are numbered: nothing in DICOM says which it is."""

    @property
    def when(self) -> tuple[str, ...]:
        return self.first.text("StudyDate"), self.first.text("StudyTime")

    @property
    def series(self) -> str:
        return self.first.text("SeriesInstanceUID")

    uid = series

    @property
    def echo_ms(self) -> float | None:
        return next(iter(self.first.numbers("EchoTime")), None)

    @property
    def slices(self) -> int:
        return max(len(self.headers), self.first.frames)

    @cached_property
    def places(self) -> np.ndarray:
        """Orientation (6) and position (3) in mm of each slice, along the normal, (K, 9); (0, 9) where one is missing."""
        places = [place for header in self.headers for place in header.places]
        if any(len(orientation) != 6 or len(position) != 3 for orientation, position in places):
            return np.zeros((0, 9))
        return np.array([(*orientation, *position) for orientation, position in sorted(places, key=lambda place: _along(*place))])

    def same_plane(self, other: Stack) -> bool:
        """Whether two stacks have places, and slices of one orientation, size and pixel spacing."""
        if not len(self.places) or not len(other.places):
            return False
        if len({(s.first.text("Rows"), s.first.text("Columns")) for s in (self, other)}) > 1:
            return False
        apart_mm = [abs(a - b) for a, b in zip(self.first.spacing, other.first.spacing, strict=False)]  # none if one is unknown
        is_turned = np.abs(self.places[0, :6] - other.places[0, :6]).max() > SAME_DIRECTION
        return not is_turned and max(apart_mm, default=0) <= SAME_SPACING_MM

    def is_part_of(self, other: Stack) -> bool:
        """Whether each slice is at the place of one of another stack's."""
        if not self.same_plane(other):
            return False
        apart_mm = np.linalg.norm(self.places[:, None, 6:] - other.places[None, :, 6:], axis=2)
        return bool(apart_mm.min(axis=1).max() <= SAME_PLACE_MM)

    def same_grid(self, other: Stack) -> bool:
        """Whether two stacks have the same slices: number, size, orientation, pixel spacing and positions."""
        if self.slices != other.slices or self.places.shape != other.places.shape or not self.same_plane(other):
            return False
        return bool(np.abs(self.places[:, 6:] - other.places[:, 6:]).max() <= SAME_PLACE_MM)

    def read(self) -> tuple[Volume, dict[str, Any]]:
        volume, values = convert(self.name, [header.file for header in self.headers], self.slices)
        return volume, kept(values)


def without_names(description: str, header: Header) -> str:
    """A description without the words that occur in the patient's name or ID, or contain a part of them."""
    words = [part for tag in ("PatientName", "PatientID") for part in WORD.findall(header.text(tag))]
    spellings = [{spelled(word) for word in words} for spelled in (plain, name_letters)]
    born = {header.text("PatientBirthDate")} - {""}

    def kept(match: re.Match[str]) -> str:
        for word, parts in zip((plain(match.group()), name_letters(match.group())), spellings, strict=True):
            if any(part == word or (len(part) >= SHORTEST_NAME and part in word) for part in parts | born):
                return ""
        return match.group()

    return " ".join(WORD.sub(kept, description).split())


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[Path], dict[Path, str]]:
    """Headers of all DICOM images among files, the files that are none, and those that cannot be read, with the reason.

    Nothing is changed, and no pixel is read.
    """
    headers, others, unread = [], [], {}
    for file in files:
        try:
            values = _values(file)
        except OSError as error:
            unread[file] = system_reason(error)
            continue
        except Exception:  # damaged headers raise nearly everything in pydicom
            if dicom_files([file]):
                unread[file] = "a damaged DICOM header"
            else:
                others.append(file)
            continue
        if "SOPInstanceUID" in values and "Rows" in values:
            headers.append(Header(file, values))
        else:
            others.append(file)  # DICOMDIR, structured reports, presentation states
    return headers, others, unread


def _values(file: Path) -> pydicom.Dataset:
    """What is used of a file's header, all converted: pydicom would find damage only when a value is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would print values, such as names
        values = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        for _ in values.iterall():
            pass
    return values


def stacks_of(headers: Iterable[Header]) -> list[Stack]:
    """All stacks, by study, series number and position.

    One instance in two files counts once. A series of magnitude and phase together, or of several echoes, becomes several stacks.
    """
    # Of broken anonymisers several instances, or several patients, have the same UIDs.
    unique = {(h.text("SOPInstanceUID"), _whose(h), h.text("ImagePositionPatient")): h for h in headers}
    groups: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    for header in unique.values():
        groups[_group(header)].append(header)
    found = []
    for group in groups.values():
        ordered = sorted(group, key=_place)
        role, reason = role_of(ordered[0].facts(sum(h.frames for h in ordered)))
        fault = "" if role == SKIPPED else geometry_fault(ordered)
        found.append(Stack(tuple(ordered), role, reason, fault))
    found = [replace(stack, fault=stack.fault or cut_fault(stack, found)) for stack in found]
    return sorted(found, key=lambda s: (s.study, (s.first.numbers("SeriesNumber") or (0,))[0], s.first.text("SeriesInstanceUID")))


def cut_fault(stack: Stack, stacks: Sequence[Stack]) -> str:
    """What shows that an SWI lacks slices at an end: another image of its acquisition, or its images' numbers; '' if nothing.

    stacks: all stacks of the sources. Of several SWI of one study nothing can be seen: each may be a part of one.
    """
    if stack.role != SWI:
        return ""
    study = [s for s in stacks if (s.study, _whose(s.first)) == (stack.study, _whose(stack.first))]
    if sum(s.role == SWI for s in study) > 1:
        return ""
    for other in study:
        if other.role in (PHASE, MAGNITUDE) and other.slices > stack.slices and stack.is_part_of(other):
            return f"{stack.slices} of the {other.slices} slices that its {other.role} has"
    numbers = [n for header in stack.headers for n in header.numbers("InstanceNumber")]
    steps = np.diff(numbers)
    is_alone = sum(s.series == stack.series for s in study) == 1 and len(stack.headers) > 1
    # Numbers in another order than the slices' say nothing: some anonymisers draw them.
    if not is_alone or len(numbers) != len(stack.headers) or not (np.all(steps > 0) or np.all(steps < 0)):
        return ""
    if min(numbers) > 1 or np.abs(steps).max() > 1:
        return f"{len(numbers)} images with numbers of {min(numbers):g} to {max(numbers):g}: others are missing"
    return ""


def _group(header: Header) -> tuple[Any, ...]:
    orientation = tuple(np.round(header.numbers("ImageOrientationPatient"), 2))
    size = (header.text("Rows"), header.text("Columns"))
    echo = tuple(round(e, 2) for e in header.numbers("EchoTime"))
    uids = (header.text("StudyInstanceUID"), header.text("SeriesInstanceUID"))
    return *uids, _whose(header), header.kinds, echo, orientation, size


def _whose(header: Header) -> tuple[str, ...]:
    return header.text("PatientID"), header.text("PatientName"), header.text("PatientBirthDate")


def _place(header: Header) -> tuple[float, float]:
    """Position along the stack's normal, then the instance's number."""
    return _along(*header.places[0]), (header.numbers("InstanceNumber") or (0,))[0]


def _along(orientation: Place, position: Place) -> float:
    """Position of a slice along its normal in mm; 0 if it is not known."""
    if len(orientation) != 6 or len(position) != 3:
        return 0.0
    return float(np.dot(np.cross(orientation[:3], orientation[3:]), position))


def geometry_fault(headers: Sequence[Header]) -> str:
    """What is wrong with the slices of a stack, by position; '' for a whole one."""
    if len(headers) > 1 and any(h.frames > 1 for h in headers):
        return f"{len(headers)} multi-frame files in one series"
    places = [place for h in headers for place in h.places]
    if len(places) == 1:
        return "one slice alone"
    if any(len(orientation) != 6 or len(position) != 3 for orientation, position in places):
        return "slices without a position"
    orientations = np.array([orientation for orientation, _ in places])
    if np.abs(orientations - orientations[0]).max() > SAME_DIRECTION:
        return "slices of different orientations"
    gaps = np.diff(sorted(_along(*place) for place in places))
    usual = float(np.median(gaps))
    if usual <= 0 or (doubled := int((gaps < 0.1 * usual).sum())):
        return "several images at each position" if usual <= 0 else f"{doubled} positions with two images"
    missing = int(np.rint(gaps / usual - 1).sum())
    if missing:
        between = ", ".join(f"{n + 1} and {n + 2}" for n in np.flatnonzero(np.rint(gaps / usual) > 1)[:3])
        return f"{missing} of {len(places) + missing} slices missing, between {between}"
    ratio = usual / ((headers[0].numbers("SpacingBetweenSlices") or (0,))[0] or usual)
    if ratio > 2 - SAME_GAP and abs(ratio - round(ratio)) < SAME_GAP:
        return f"slices {usual:.2f} mm apart, {usual / ratio:.2f} mm by their headers: others are missing"
    if np.abs(gaps / usual - 1).max() > SAME_GAP:
        return f"slices at uneven distances, {gaps.min():.2f} to {gaps.max():.2f} mm"
    return ""
