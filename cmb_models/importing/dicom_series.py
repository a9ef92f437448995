"""DICOM files of any folder as stacks of slices, and what each stack is: an SWI, its phase or magnitude, or something to skip.

Only headers are read here. What a stack is stands in no one place: vendors say it in ImageType, in the description of the series,
or in the name of the sequence.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from cmb_models.files import files_below

SWI, PHASE, MAGNITUDE, GRE, SKIPPED = "swi", "phase", "magnitude", "gre", "skipped"
SAME_DIRECTION = 1e-3  # by which cosines of one stack may differ
SAME_GAP = 0.05  # share by which gaps between slices may differ
LEAST_SLICES = 8  # an SWI of a head has 30 and more; fewer are a localizer or a fragment
GRE_ECHO_MS = 12.0  # gradient echoes with shorter ones are not weighted by T2*
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
        "MagneticFieldStrength",
    ),
    *("Rows", "Columns", "PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "NumberOfFrames"),
    *("StudyDate", "StudyTime", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


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
        """A value's numbers; () if it is missing or not readable."""
        value = self.values.get(name)
        try:
            return tuple(float(v) for v in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value]))
        except (TypeError, ValueError):
            return ()

    @property
    def frames(self) -> int:
        """Number of slices in the file."""
        return int((self.numbers("NumberOfFrames") or (1,))[0])

    @property
    def kinds(self) -> frozenset[str]:
        """The values of ImageType, in capitals."""
        value = self.values.get("ImageType") or ()
        return frozenset(str(v).strip().upper() for v in ([value] if isinstance(value, str) else value))

    @property
    def description(self) -> str:
        """Of the series, in small letters; the protocol's name where there is none."""
        return (self.text("SeriesDescription") or self.text("ProtocolName")).lower()

    @property
    def sequence(self) -> str:
        """Name of the sequence, in small letters."""
        return f"{self.text('SequenceName')} {self.text('PulseSequenceName')}".lower()


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
        """Number and description of its series, for messages."""
        return f"series {self.first.text('SeriesNumber') or '?'} {self.first.text('SeriesDescription') or '(no description)'}"

    @property
    def study(self) -> str:
        return self.first.text("StudyInstanceUID")

    @property
    def slices(self) -> int:
        return max(len(self.headers), self.first.frames)


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[Path]]:
    """Headers of all DICOM images among files, and the files that are none. Nothing is changed, and no pixel is read."""
    headers, others = [], []
    for file in files:
        try:
            values = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError, EOFError):
            others.append(file)
            continue
        if "SOPInstanceUID" in values and "Rows" in values:
            headers.append(Header(file, values))
        else:
            others.append(file)  # DICOMDIR, structured reports, presentation states
    return headers, others


def stacks_of(headers: Iterable[Header]) -> list[Stack]:
    """All stacks, by study, series number and position.

    One instance in two files counts once. A series of magnitude and phase together, or of several echoes, becomes several stacks.
    """
    unique = {h.text("SOPInstanceUID"): h for h in headers}
    groups: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    for header in unique.values():
        groups[_group(header)].append(header)
    found = []
    for group in groups.values():
        ordered = sorted(group, key=_place)
        role, reason = role_of(ordered[0], sum(h.frames for h in ordered))
        fault = "" if role == SKIPPED else geometry_fault(ordered)
        found.append(Stack(tuple(ordered), role, reason, fault))
    return sorted(found, key=lambda s: (s.study, (s.first.numbers("SeriesNumber") or (0,))[0], s.first.text("SeriesInstanceUID")))


def _group(header: Header) -> tuple[Any, ...]:
    orientation = tuple(np.round(header.numbers("ImageOrientationPatient"), 2))
    size = (header.text("Rows"), header.text("Columns"))
    echo = tuple(round(e, 2) for e in header.numbers("EchoTime"))
    return header.text("StudyInstanceUID"), header.text("SeriesInstanceUID"), header.kinds, echo, orientation, size


def _place(header: Header) -> tuple[float, float]:
    """Position along the stack's normal, then the instance's number."""
    orientation, position = header.numbers("ImageOrientationPatient"), header.numbers("ImagePositionPatient")
    along = 0.0
    if len(orientation) == 6 and len(position) == 3:
        along = float(np.dot(np.cross(orientation[:3], orientation[3:]), position))
    return along, (header.numbers("InstanceNumber") or (0,))[0]


# In descriptions, as words between what is no letter. Siemens and UIH: SWI, GE: SWAN, Philips: SWIp and VenoBOLD, Canon: FSBB.
FAMILY = re.compile(r"(?<![a-z])(e?swi[p]?|e?swan|fsbb|ven(o|ous)?[ _]?bold|susceptib\w*)(?![a-z])")
SEQUENCE = re.compile(r"swi(?![a-z])|swan|fsbb")  # Siemens' sequence is called *swi3d1r
PROJECTION = re.compile(r"(?<![a-z])m(in)?[ _]?ips?(?![a-z])|min(imum)?[ _]intensity|(?<![a-z])(thick|mpr(?![a-z])|reformat)")
LOCALIZER = re.compile(r"locali[sz]er|scout|survey|(three|3)[- _]?(plane|pl)\b|smartbrain|aahead|(?<![a-z])loc(?![a-z])")
DERIVED_MAP = re.compile(
    r"(?<![a-z])(qsm|(field|b0)[ _]?map|(t2|t1|r2|adc|fa|cbf|cbv|ttp|mtt|chi)(\*|star)?[ _]?map|unwrapped)(?![a-z])"
)
PHASE_WORDS = re.compile(r"(?<![a-z])pha(se)?([ _]?(map|image)s?)?(?![a-z])(?! ?(ap|pa|rl|lr|enc|wrap|over))(?<!no phase)")
MAGNITUDE_WORDS = re.compile(r"(?<![a-z])mag(nitude)?(?![a-z])")
PHASE_KINDS, MAGNITUDE_KINDS = {"P", "PHASE", "PHASE MAP", "PHASE_MAP"}, {"M", "SWI", "M_FFE", "MAGNITUDE"}
DERIVED_KINDS = {"MNIP", "MINIP", "MIN IP", "MIP", "REFORMATTED", "MPR", "PROJECTION IMAGE"}
MAP_KINDS = {"FIELD_MAP", "FIELDMAP", "T2_STAR_MAP", "T2 MAP", "T1 MAP", "QSM", "B0 MAP"}
GRE_WORDS = re.compile(r"t2[*_ -]*(star|\*)|hemo|haemo|(?<![a-z])gre(?![a-z])|ffe|fl2d|fl3d|medic|merge")
OTHERS = (
    (re.compile(r"flair|tirm|dark[-_ ]?fl"), "FLAIR"),
    (re.compile(r"dwi|dti|diff|trace|(?<![a-z])adc"), "diffusion"),
    (re.compile(r"mp.?rage|bravo|(?<![a-z0-9])t1"), "T1-weighted"),
    (re.compile(r"(?<![a-z])tof|angio|(?<![a-z])mra(?![a-z])"), "angiography"),
    (re.compile(r"(?<![a-z])asl|perf|(?<![a-z])dsc|(?<![a-z])dce|dyn"), "perfusion"),
    (re.compile(r"(?<![a-z])bold|fmri|(?<![a-z])rest|ep2d|(?<![a-z])epi(?![a-z])"), "functional"),
    (re.compile(r"t2|tse|(?<![a-z])fse|propeller|blade|space|cube"), "T2-weighted"),
    (re.compile(r"(?<![a-z])pdw?(?![a-z])|proton"), "proton-density-weighted"),
)


def role_of(header: Header, slices: int) -> tuple[str, str]:
    """What a stack is, by the header of one of its images; for SKIPPED with the reason, for GRE with what to beware of.

    ImageType counts more than words. The protocol's name does not count where the series has a description: it is one for all
    that the scanner makes of it.
    """
    kinds, words = header.kinds, header.description
    if (modality := header.text("Modality")) != "MR":
        return SKIPPED, f"{modality or 'no modality'}, not MR"
    if "LOCALIZER" in kinds or LOCALIZER.search(words):
        return SKIPPED, "a localizer"
    if kinds & DERIVED_KINDS or PROJECTION.search(words):
        return SKIPPED, "a projection over several slices"
    if DERIVED_MAP.search(words) or kinds & MAP_KINDS:
        return SKIPPED, "a map, not an image"
    if kinds & {"R", "I", "REAL", "IMAGINARY"}:
        return SKIPPED, "a real or imaginary part"
    if slices < LEAST_SLICES:
        return SKIPPED, f"{slices} slices alone"
    is_phase = bool(kinds & PHASE_KINDS) or (not kinds & MAGNITUDE_KINDS and bool(PHASE_WORDS.search(words)))
    others = [what for pattern, what in OTHERS if pattern.search(words)]
    by_words = bool(FAMILY.search(words)) and not set(others) - {"functional", "T2-weighted"}
    if "SWI" in kinds or by_words or (not others and SEQUENCE.search(header.sequence)):
        if is_phase:
            return PHASE, ""
        return (MAGNITUDE, "") if MAGNITUDE_WORDS.search(words) else (SWI, "")
    if not others and not is_phase and MAGNITUDE_WORDS.search(words):
        return MAGNITUDE, ""
    if _is_gre(header) and not is_phase and (GRE_WORDS.search(words) or not others):
        return GRE, "a T2*-weighted magnitude, not SWI"
    if others:
        return SKIPPED, f"{others[0]}, not SWI"
    return (PHASE, "") if is_phase else (SKIPPED, "not named as SWI")


def _is_gre(header: Header) -> bool:
    sequence = header.text("ScanningSequence").upper()
    echo = header.numbers("EchoTime")
    return "GR" in sequence and "IR" not in sequence and "EP" not in sequence and bool(echo) and echo[0] >= GRE_ECHO_MS


def geometry_fault(headers: Sequence[Header]) -> str:
    """What is wrong with the slices of a stack, by position; '' for a whole one. Multi-frame files are judged after conversion."""
    if len(headers) == 1:
        return "" if headers[0].frames > 1 else "one slice alone"
    if any(h.frames > 1 for h in headers):
        return f"{len(headers)} multi-frame files in one series"
    if any(len(h.numbers("ImagePositionPatient")) != 3 or len(h.numbers("ImageOrientationPatient")) != 6 for h in headers):
        return "slices without a position"
    orientations = np.array([h.numbers("ImageOrientationPatient") for h in headers])
    if np.abs(orientations - orientations[0]).max() > SAME_DIRECTION:
        return "slices of different orientations"
    gaps = np.diff([_place(h)[0] for h in headers])
    usual = float(np.median(gaps))
    if usual <= 0 or (doubled := int((gaps < 0.1 * usual).sum())):
        return "several images at each position" if usual <= 0 else f"{doubled} positions with two images"
    missing = int(np.rint(gaps / usual - 1).sum())
    if missing:
        places = ", ".join(f"{n + 1} and {n + 2}" for n in np.flatnonzero(np.rint(gaps / usual) > 1)[:3])
        return f"{missing} of {len(headers) + missing} slices missing, between {places}"
    if np.abs(gaps / usual - 1).max() > SAME_GAP:
        return f"slices at uneven distances, {gaps.min():.2f} to {gaps.max():.2f} mm"
    return ""


def files_of(sources: Iterable[Path]) -> Iterator[Path]:
    """The files named, and all files in the folders named, at any depth."""
    for source in sources:
        yield from [source] if source.is_file() else files_below(source)
