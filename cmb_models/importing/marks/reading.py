"""What a file of marks holds, before it is known which scan of a dataset it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmb_models.dataset.check.frames import ONE_BASED, WRITTEN, ZERO_BASED
from cmb_models.errors import InputError
from cmb_models.io.annotations import COLUMNS, MIMIC_PREFIX, NONE
from cmb_models.volume import ras_orientation

RAS, LPS, VOXEL0, VOXEL1 = "ras", "lps", "voxel0", "voxel1"
FRAMES = {RAS: WRITTEN, LPS: "LPS", VOXEL0: ZERO_BASED, VOXEL1: ONE_BASED}  # names in dataset/check/frames
IGNORE = "ignore"  # what --label may say of marks that are not to be imported
ANY = "*"  # what --label may call all that it does not name
SYNONYMS = {"microbleed": "cmb", "cerebral microbleed": "cmb", "mb": "cmb", "definite": "cmb"}
# Kinds of mimics that training distinguishes (networks.cnn): words that mean nothing else.
SYNONYMS |= {kind: f"{MIMIC_PREFIX}{kind}" for kind in ("calcification", "iron", "vein", "air_bone", "cavernoma", "flow_void")}
LARGEST_MM = 10.0  # a CMB by definition (Greenberg et al. 2009)
SHOWN = 5  # names in a message
KIND = re.compile(r"[a-z0-9_]{1,20}")  # of a mimic, in a file, which may hold any words
FIELDS = (*COLUMNS, "x", "y", "z")  # what --column may name
LABELS = f"cmb, possible, {MIMIC_PREFIX}<kind>, {NONE} or {IGNORE}"
ANY_FRAME = f"pass --frame {RAS}, {LPS}, {VOXEL0} or {VOXEL1}"


@dataclass(frozen=True)
class Mark:
    """One mark. position: in the frame, one of FRAMES: mm, or voxel indices of the array of the dataset's scan as stored."""

    position: tuple[float, float, float]
    frame: str
    diameter_mm: float
    label: str
    region: str = ""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie: its shape (I, J, K) and affine (4, 4), voxel index to RAS mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    def to_ras(self) -> Grid:
        """The grid with its axes flipped and permuted to the nearest RAS+ order."""
        orientation, affine = ras_orientation(self.affine, self.shape)
        shape = [0] * 3
        for size, axis in zip(self.shape, orientation[:, 0], strict=True):
            shape[int(axis)] = size
        return Grid(tuple(shape), affine)


@dataclass(frozen=True)
class Reading:
    """What one rater marked in one scan. Without marks: the rater found nothing.

    Attributes:
        file: The file.
        form: Its form, a name of `forms.FORMS`.
        marks: The marks.
        subject: As written in the file; "" where only the file's name says it. So is session.
        rater: As written in the file, or "".
        grid: Of a label mask, for comparison with the scan's; None for other forms.
        note: What was left out, in words.
        states_frame: Whether the file says which frame it is in, so that no option can.
        names_sessions: Whether the file has a column of sessions, so that an empty one means the scan without a session.
        source: The folder in which the file was found, or the file itself; None: the latter.
    """

    file: Path
    form: str
    marks: tuple[Mark, ...]
    subject: str = ""
    session: str = ""
    rater: str = ""
    grid: Grid | None = None
    note: str = ""
    states_frame: bool = False
    names_sessions: bool = False
    source: Path | None = None


@dataclass(frozen=True)
class Options:
    """How files are to be read. Each is empty or None where the file is to say it.

    Attributes:
        form: A name of `forms.FORMS`.
        frame: One of FRAMES.
        diameter_mm: Of marks without one.
        labels: Label, or IGNORE, by what the file calls it: a mask's value, a text of a table or of a point, or ANY.
        columns: A table's column by one of FIELDS.
        rater, subject, session: Of files that do not name them.

    Raises:
        InputError: For a value that is not allowed.
    """

    form: str = ""
    frame: str = ""
    diameter_mm: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    rater: str = ""
    subject: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        if self.frame and self.frame not in FRAMES:
            raise InputError("setting-invalid", "--frame", ", ".join(FRAMES), self.frame, "pass one of these")
        if self.diameter_mm is not None and not 0 < self.diameter_mm < 100:
            raise InputError("setting-invalid", "--diameter-mm", "above 0 and below 100", f"{self.diameter_mm:g}", "correct it")
        if wrong := [label for label in self.labels.values() if not is_label(label) and label not in (NONE, IGNORE)]:
            raise InputError("setting-invalid", "--label", LABELS, wrong[0], "pass one of these")
        if unknown := [name for name in self.columns if name not in FIELDS]:
            raise InputError("setting-invalid", "--column", f"one of {', '.join(FIELDS)}", unknown[0], "pass one of these")

    def label_of(self, text: str) -> str | None:
        """The label that a text of a file means; None if it is not known. NONE and IGNORE are possible."""
        return self.named_label(text) or self.labels.get(ANY)

    def named_label(self, text: str) -> str | None:
        """As label_of, without what the options say of all other texts."""
        if text in self.labels:
            return self.labels[text]
        plain = text.lower()
        if plain.startswith(MIMIC_PREFIX):
            return plain if KIND.fullmatch(plain.removeprefix(MIMIC_PREFIX)) else None
        for word in (plain, plain.removesuffix("s"), re.sub("[ -]", "_", plain.removesuffix("s"))):
            if is_label(word) or word == NONE:
                return word
            if word in SYNONYMS:
                return SYNONYMS[word]
        return None

    def label_in_name(self, file: Path) -> str:
        """The label that a word of a file's name means; "" if none does, or several do."""
        words = (w for w in re.findall(r"[^\W_]+", file.name) if not w.isdecimal())
        found = {label for w in words if (label := self.named_label(w)) and label != NONE}
        found -= {"cmb"} if "possible" in found else set()
        return found.pop() if len(found) == 1 else ""

    def frame_of(self, file: Path, stated: str, what: str, usual: str = "") -> str:
        """The frame of a file's positions. stated: that of the file itself, "" if it has none. usual: of its form.

        Raises:
            InputError: If neither the file nor the options say it, or they contradict each other.
        """
        if self.frame and stated and self.frame != stated:
            got, remedy = f"--frame {self.frame}", "leave the option out, or correct the file"
            raise InputError("options-conflict", file, f"{stated} for {what}, as the file says", got, remedy)
        if not (frame := self.frame or stated or usual):
            raise InputError("marks-option", file, f"a frame for {what}", "none", ANY_FRAME)
        return frame

    def diameter_of(self, file: Path, given_mm: float | None, remedy: str = "pass --diameter-mm") -> float:
        """The diameter of a mark. Raises InputError with the remedy if neither the file nor the options have one."""
        if given_mm is None and self.diameter_mm is None:
            raise InputError("marks-option", file, "a diameter for each mark", "none", remedy)
        return float(self.diameter_mm if given_mm is None else given_mm)  # type: ignore[arg-type]


def is_label(text: str) -> bool:
    """Whether a text is a label of `io.annotations`, NONE not included."""
    return text in ("cmb", "possible") or (text.startswith(MIMIC_PREFIX) and text != MIMIC_PREFIX)


def label_options(texts: Iterable[str]) -> str:
    """The remedy for labels that are not known. No meaning is suggested, since a wrong one would be copied."""
    texts = list(dict.fromkeys(texts))
    options = " ".join(f"--label '{text}=MEANING'" for text in texts[:SHOWN]) + (" and so on" if len(texts) > SHOWN else "")
    return f"pass {options}, where MEANING is {LABELS}"


def listed(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def too_large(marks: Iterable[Mark]) -> list[Mark]:
    """Microbleeds above LARGEST_MM."""
    return [m for m in marks if m.label == "cmb" and m.diameter_mm > LARGEST_MM]


def ignored_note(marks: int) -> str:
    """That marks were left out as --label says."""
    return f"{marks} mark{'s' if marks > 1 else ''} ignored"


def position_of(numbers: object) -> tuple[float, float, float]:
    """Three finite numbers. Raises TypeError or ValueError for anything else."""
    x, y, z = (float(n) for n in numbers)  # type: ignore[attr-defined]
    if not all(math.isfinite(n) for n in (x, y, z)):
        raise ValueError(f"a position that is not finite: {x}, {y}, {z}")
    return x, y, z


def damaged(file: Path, form: str, why: object) -> InputError:
    """The error for a file that is not a whole one of its form."""
    got = f"one that cannot be read ({' '.join(str(why).split())[:200]})"
    return InputError("marks-form", file, f"a whole {form} file", got, "export it again, or name its form with --from")
