"""Which images of a source become which files of a dataset, and why the others do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cmb_models.errors import InputError
from cmb_models.importing.identity import Key, Who, several_patients
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI
from cmb_models.volume import Volume

ENDINGS = {SWI: "swi", PHASE: "part-phase_swi", MAGNITUDE: "part-mag_swi", GRE: "part-mag_swi"}
RENAMED = "a patient with several names, the same by ID and birth date"
NOT_SWI = "it is no SWI: a release that was trained on SWI will not fit it"
SAME_ECHO_MS = 0.5


class Image(Protocol):
    """One image of a source that may become a file of a dataset."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def place(self) -> Path:
        """The file, or the folder of the first file of a series."""

    @property
    def role(self) -> str:
        """SWI, PHASE, MAGNITUDE, GRE or SKIPPED."""

    @property
    def reason(self) -> str:
        """Why it is skipped, or what to beware of."""

    @property
    def fault(self) -> str:
        """What is wrong with an image that would be used, or ''."""

    @property
    def who(self) -> Who:
        """Whose it is."""

    @property
    def study(self) -> str:
        """What the source calls the study or session."""

    @property
    def session_label(self) -> str | None:
        """The session to keep; None to number them."""

    @property
    def when(self) -> tuple[str, ...]:
        """Key to sort the studies of a subject by."""

    @property
    def series(self) -> str:
        """The series it belongs to, of which it may be one echo; '' where there are none."""

    @property
    def echo_ms(self) -> float | None:
        """Echo time; None if unknown."""

    @property
    def uid(self) -> str:
        """What distinguishes it from another image that would become the same file."""

    @property
    def slices(self) -> int | None:
        """How many slices there are of it, where `uid` does not tell an image that lacks some; else None."""

    def same_grid(self, other: Any) -> bool:
        """Whether another image of its kind of source has the same voxels' places, as far as its header says."""

    def read(self) -> tuple[Volume, dict[str, Any]]:
        """The volume, and values for its sidecar. Raises InputError if that is not possible."""


@dataclass(frozen=True)
class Step:
    """What happens to one image.

    Args:
        image: The image.
        subject: Its subject; '' if nobody knows.
        session: Its session; '' for a subject's first.
        target: Path in the dataset; None if it is not used.
        reason: Why it is not used, or a warning.
        is_fault: Whether it should have been used.
        code: Of the error, if there was one.
    """

    image: Image
    subject: str
    session: str
    target: Path | None
    reason: str = ""
    is_fault: bool = False
    code: str = ""


def failed(image: Image, subject: str, session: str, error: InputError) -> Step:
    """The step of an image that cannot be used because of an error."""
    reason = f"{error.expected} expected, got {error.got}; {error.remedy}"
    return Step(image, subject, session, None, reason, is_fault=True, code=error.code)


def plan(
    images: Iterable[Image], key: Key, echo_ms: float | None = None, gre_as_swi: bool = False, may_be_renamed: bool = False
) -> list[Step]:
    """One step per image, by subject, session and series. Subjects and sessions are entered into the key.

    Of each study one SWI is taken, with the phase and magnitude of its grid. A study without SWI but with a T2*-weighted gradient
    echo gives that as magnitude, with a warning.

    Args:
        images: All images of the sources.
        key: The key of the dataset.
        echo_ms: Which of several echoes of one series is taken.
        gre_as_swi: Whether a gradient echo becomes the scan where there is no SWI.
        may_be_renamed: Whether patients of one ID and birth date are one, however they are named.
    """
    images = list(images)
    births: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    undated: set[str] = set()  # identities of which a birth date is missing
    for image in images:
        births[image.who.identity] |= {image.who.born} - {""}
        if not (may_be_renamed and image.who.born):
            undated.add(image.who.identity)
        names[image.who.identity] |= {image.who.name} - {""}
    steps, by_study = [], defaultdict(list)
    for image in images:
        try:
            for differing, found in (("birth dates", births), ("names", names)):
                is_one = found is names and image.who.identity not in undated
                if image.who.identity and len(found[image.who.identity]) > 1 and not is_one:
                    raise several_patients(image.name, differing)
            by_study[key.subject(image.who, image.name, may_be_renamed), image.study].append(image)
        except InputError as error:
            is_used = image.role != SKIPPED
            step = failed(image, "", "", error)
            step = replace(step, reason=image.fault or step.reason)
            steps.append(step if is_used else Step(image, "", "", None, image.reason))
    for (subject, study), own in sorted(by_study.items(), key=lambda item: (item[0][0], item[1][0].when)):
        useful = any(image.role != SKIPPED for image in own)
        session = key.session(subject, study, own[0].session_label) if useful else ""
        steps += of_study(own, subject, session, echo_ms, gre_as_swi)
    return [_noted(step, key) for step in steps]


def _noted(step: Step, key: Key) -> Step:
    """With notes of a used image's patient: one who was renamed, and one who may have two subjects.

    Of these, one could be trained on, and the other tested on.
    """
    if step.target is None:
        return step
    notes = [step.reason, RENAMED if key.is_renamed(step.subject) else ""]
    if step.image.role not in (PHASE, MAGNITUDE) and (other := key.namesake(step.subject)):
        notes.append(f"same name and birth date as {other}, under another PatientID: if it is one patient, keep the scans of one")
    return replace(step, reason="; ".join(filter(None, notes)))


def of_study(
    images: Sequence[Image], subject: str = "", session: str = "", echo_ms: float | None = None, gre_as_swi: bool = False
) -> list[Step]:
    """One step per image of one study, as `plan` describes. subject, session: of the targets; "" for a study alone."""

    def step(image: Image, reason: str = "", is_fault: bool = False) -> Step:
        return Step(image, subject, session, None, reason, is_fault)

    def taken(image: Image, ending: str, reason: str = "") -> Step:
        name = "_".join(part for part in (subject, session, ending) if part)
        return Step(image, subject, session, Path(subject, session, "swi", f"{name}.nii.gz"), reason)

    found: dict[int, Step] = {}
    expected = SWI if any(i.role == SWI for i in images) else GRE
    for n, image in enumerate(images):
        if image.role == SKIPPED:
            found[n] = step(image, image.reason)
        elif image.fault:
            found[n] = step(image, image.fault, is_fault=image.role == expected)
    main = [n for n, i in enumerate(images) if n not in found and i.role == expected]
    if echo_ms is not None and len(main) > 1 and _are_echoes([images[n] for n in main]):
        others = [n for n in main if abs((images[n].echo_ms or 0) - echo_ms) > SAME_ECHO_MS]
        if len(others) == len(main) - 1:
            found |= {n: step(images[n], f"another echo than {echo_ms:g} ms") for n in others}
            main = [n for n in main if n not in others]
    if len(main) > 1:
        several = _several([images[n] for n in main])
        found |= {n: step(images[n], several, is_fault=True) for n in main}
    elif main:
        chosen = images[main[0]]
        ending = ENDINGS[SWI if gre_as_swi else chosen.role]
        found[main[0]] = taken(chosen, ending, NOT_SWI if chosen.role == GRE else chosen.reason)
        for role in (PHASE, MAGNITUDE):
            alike = [n for n, i in enumerate(images) if n not in found and i.role == role and i.same_grid(chosen)]
            alike.sort(key=lambda n: images[n].echo_ms != chosen.echo_ms)
            if alike and ENDINGS[role] != ending:
                found[alike[0]] = taken(images[alike[0]], ENDINGS[role])
            found |= {n: step(images[n], f"a second {role}") for n in alike if n not in found}
    for n, image in enumerate(images):
        if n not in found:
            found[n] = step(image, "without an SWI of its grid" if image.role != GRE else image.reason)
    return [found[n] for n in range(len(images))]


def _are_echoes(images: Sequence[Image]) -> bool:
    """Whether images are the echoes of one series."""
    return len({i.series for i in images}) == 1 and bool(images[0].series) and len({i.echo_ms for i in images}) == len(images)


def _several(images: Sequence[Image]) -> str:
    if _are_echoes(images):
        times = ", ".join(f"{t:g}" for t in sorted(i.echo_ms or 0 for i in images))
        return f"{len(images)} echoes of one series, of {times} ms: pass one of them with --echo"
    return f"one of several of this study: {', '.join(i.name for i in images)}; pass one of them alone"
