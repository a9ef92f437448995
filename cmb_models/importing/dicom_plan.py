"""Which stacks of a DICOM export become which files of a dataset, and why the others do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_models.importing.dicom_series import Stack
from cmb_models.importing.identity import Key
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI

ENDINGS = {SWI: "swi", PHASE: "part-phase_swi", MAGNITUDE: "part-mag_swi", GRE: "part-mag_swi"}
NOT_SWI = "it is no SWI: a release that was trained on SWI will not fit it"


@dataclass(frozen=True)
class Step:
    """What happens to one stack. target: path in the dataset; None if it is not used. reason: why not, or a warning.

    is_fault: it should have been used.
    """

    stack: Stack
    subject: str
    session: str
    target: Path | None
    reason: str = ""
    is_fault: bool = False


def plan(stacks: Iterable[Stack], key: Key) -> list[Step]:
    """One step per stack, by subject, session and series. Subjects and sessions are entered into the key.

    Of each study one SWI is taken, with the phase and magnitude of its grid. A study without SWI but with a T2*-weighted gradient
    echo gives that as magnitude, with a warning.
    """
    by_study: dict[tuple[str, str], list[Stack]] = defaultdict(list)
    for stack in stacks:
        by_study[key.subject(stack.first), stack.study].append(stack)
    steps = []
    for (subject, study), own in sorted(by_study.items(), key=lambda item: (item[0][0], _date(item[1]))):
        useful = any(s.role != SKIPPED for s in own)
        session = key.session(subject, study) if useful else ""
        steps += _of_study(own, subject, session)
    return steps


def _date(stacks: Sequence[Stack]) -> tuple[str, str]:
    return stacks[0].first.text("StudyDate"), stacks[0].first.text("StudyTime")


def _of_study(stacks: Sequence[Stack], subject: str, session: str) -> list[Step]:
    def step(stack: Stack, target: Path | None, reason: str = "", is_fault: bool = False) -> Step:
        return Step(stack, subject, session, target, reason, is_fault)

    found: dict[int, Step] = {}
    for n, stack in enumerate(stacks):
        if stack.role == SKIPPED:
            found[n] = step(stack, None, stack.reason)
        elif stack.fault:
            found[n] = step(stack, None, stack.fault, is_fault=stack.role == SWI)
    main = [n for n, s in enumerate(stacks) if n not in found and s.role == SWI]
    warning = ""
    if not main and not any(s.role == SWI for s in stacks):
        main, warning = [n for n, s in enumerate(stacks) if n not in found and s.role == GRE], NOT_SWI
    if len(main) > 1:
        names = ", ".join(stacks[n].name for n in main)
        found |= {n: step(stacks[n], None, f"one of several of this study: {names}; pass the folder of one", True) for n in main}
    elif main:
        chosen = stacks[main[0]]
        found[main[0]] = step(chosen, _target(chosen, subject, session), warning)
        for role in (PHASE, MAGNITUDE):
            alike = [n for n, s in enumerate(stacks) if n not in found and s.role == role and _same_grid(s, chosen)]
            for n in alike[:1]:
                found[n] = step(stacks[n], _target(stacks[n], subject, session))
            found |= {n: step(stacks[n], None, f"a second {role}") for n in alike[1:]}
    for n, stack in enumerate(stacks):
        if n not in found:
            found[n] = step(stack, None, "without an SWI of its grid" if stack.role != GRE else stack.reason)
    return [found[n] for n in range(len(stacks))]


def _target(stack: Stack, subject: str, session: str) -> Path:
    name = "_".join(part for part in (subject, session, ENDINGS[stack.role]) if part)
    return Path(subject, session, "swi", f"{name}.nii.gz")


def _same_grid(one: Stack, other: Stack) -> bool:
    """Whether two stacks have the same slices: number, size and first position."""
    if len({(s.slices, s.first.text("Rows"), s.first.text("Columns")) for s in (one, other)}) > 1:
        return False
    places = [s.first.numbers("ImagePositionPatient") for s in (one, other)]
    return len(places[0]) != 3 or len(places[1]) != 3 or bool(np.allclose(places[0], places[1], atol=0.1))
