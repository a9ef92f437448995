"""A dataset of simulated scans in the layout a site keeps its own in; a killed run continues where it stopped."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from cmb_models import __version__
from cmb_models.dataset.check.frames import DARK, darkness
from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.errors import InputError
from cmb_models.files import read_json, system_reason, write_json
from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.machine import worker_count
from cmb_models.phantom.config import PhantomConfig, plain_json
from cmb_models.phantom.head.template import map_path
from cmb_models.phantom.presets import MIXED, PRESETS, draw_config
from cmb_models.phantom.scan import MAX_CMBS, RATER, SimulatedScan, session_names, simulate_subject
from cmb_models.volume import index_from_world

SUBJECT_GB = 3.0  # of a process that simulates a whole head at the finest voxels of a preset (benchmarks/phantom_speed.py)
REQUEST = "phantom.json"  # what was asked for, at the top of the dataset
COUNT_STRATA = (
    ((1, 1), 0.49),
    ((2, 4), 0.28),
    ((5, 9), 0.10),
    ((10, 30), 0.13),
)  # docs/explanation/phantom.md; their sum is 1.01 there
MAX_CALCIFICATIONS = 30  # per scan, beyond the usual ones
IMAGES = {"swi": "swi", "phase": "part-phase_swi", "magnitude": "part-mag_swi", "minip": "minIP"}  # endings of their names
MASKS = {"brain_mask": "brain", "cmb_mask": "cmb", "mimic_mask": "mimic", "vein_mask": "vein"}


@dataclass(frozen=True)
class _Job:
    """One subject. n_cmbs: microbleeds at each time point."""

    out: Path
    subject: str
    preset: str
    config: PhantomConfig
    n_cmbs: tuple[int, ...]
    seed: np.random.SeedSequence
    request: dict

    @property
    def sessions(self) -> tuple[str, ...]:
        """Names of the time points."""
        return session_names(len(self.n_cmbs))

    def truth(self, session: str) -> Path:
        return self.out / "derivatives" / "truth" / self.subject / session / "truth.json"

    def files(self, session: str) -> dict[str, Path]:
        """Where each volume of a SimulatedScan goes, by its name there."""
        stem = "_".join(p for p in (self.subject, session) if p)
        swi, masks = self.out / self.subject / session / "swi", self.out / "derivatives" / "masks" / self.subject / session
        found = {kind: swi / f"{stem}_{ending}.nii.gz" for kind, ending in IMAGES.items()}
        return found | {kind: masks / f"{stem}_{ending}.nii.gz" for kind, ending in MASKS.items()}

    @property
    def done(self) -> bool:
        return all(self.truth(s).is_file() and all(p.is_file() for p in self.files(s).values()) for s in self.sessions)


def write_dataset(
    out: Path,
    scans: int,
    cmbs: int,
    seed: int,
    cmb_free: int = 0,
    workers: int | None = None,
    presets: Sequence[str] = MIXED,
    new_cmbs: int | None = None,
    changes: dict | None = None,
    calcifications: int = 0,
    progress: bool = False,
    faint_as_possible: bool = False,
) -> None:
    """Simulate `scans` subjects with `cmbs` microbleeds in all, none of them in `cmb_free` subjects; annotations.csv comes last.

    presets: names of `presets.PRESETS`, shared out evenly. changes: what `presets.draw_config` is to change in them. new_cmbs: when
    given, every subject has a second time point, and this many microbleeds in all are new there. calcifications: so many more in
    each subject's white matter or cortex. faint_as_possible: as in `as_read`. workers: processes; None for one per core, as far as
    memory goes. The bytes depend on everything but `workers`, and on the processor: NumPy rounds otherwise with AVX-512
    (docs/explanation/hardware.md). Subjects already there from the same request are kept; a folder that holds anything else is
    refused with InputError, as are numbers that cannot be met.
    """
    out = Path(out)
    request = _request(scans, cmbs, seed, cmb_free, presets, new_cmbs, changes or {}, calcifications)
    request |= {"faint_as_possible": True} if faint_as_possible else {}
    if workers is not None and workers < 1:
        raise InputError("phantom-setting", "phantom workers", "1 or more", str(workers), "give a number of processes")
    map_path("t1")  # refuses before anything is written
    jobs = _jobs(out, request)  # as do impossible settings
    try:
        _claim(out, request)
        todo = [job for job in jobs if not job.done]
        if todo:
            (out / ANNOTATIONS).unlink(missing_ok=True)  # half a dataset must not look whole
        processes = worker_count(len(todo), SUBJECT_GB) if workers is None else workers
        for _ in track(_run(todo, processes), "simulating", len(todo), disable=not progress, transient=True):
            pass
        rows = [Annotation(**row) for job in jobs for s in job.sessions for row in read_json(job.truth(s))["annotations"]]
        marked = {(row.subject, row.session) for row in rows}
        visits = [(job.subject, s) for job in jobs for s in job.sessions]
        empty = [EmptyReading(*visit, RATER) for visit in visits if visit not in marked]
        write_annotations(out / ANNOTATIONS, rows, empty)
    except OSError as error:
        remedy = "put that right and run the same command again, or name another folder"
        raise InputError("folder-not-writable", out, "a folder that can be written to", system_reason(error), remedy) from error


def _jobs(out: Path, request: dict) -> list[_Job]:
    sequence = np.random.SeedSequence(request["seed"])
    rng = np.random.default_rng(sequence.spawn(1)[0])
    scans, presets = request["scans"], request["presets"]
    counts = cmb_counts(rng, scans, request["cmbs"], request["cmb_free"])
    own = rng.permutation([presets[n % len(presets)] for n in range(scans)])
    visits = [counts] if request["new_cmbs"] is None else [counts, counts + new_counts(rng, counts, request["new_cmbs"])]
    jobs = []
    for n, (preset, visit, seed) in enumerate(zip(own, np.stack(visits, axis=1), sequence.spawn(scans), strict=True), start=1):
        protocol, person = seed.spawn(2)
        config = draw_config(str(preset), np.random.default_rng(protocol), **request["changes"])
        jobs.append(_Job(out, f"sub-{n:03d}", str(preset), config, tuple(int(c) for c in visit), person, request))
    return jobs


def cmb_counts(rng: np.random.Generator, scans: int, cmbs: int, cmb_free: int) -> np.ndarray:
    """Microbleeds of each scan (scans,): `cmb_free` zeros, the others 1 or more, `cmbs` in all, heavy-tailed (COUNT_STRATA)."""
    positive = scans - cmb_free
    counts = np.zeros(scans, int)
    if positive:
        strata = rng.choice(len(COUNT_STRATA), positive, p=[share for _, share in COUNT_STRATA])
        raw = np.array([rng.integers(low, high + 1) for (low, high), _ in (COUNT_STRATA[s] for s in strata)])
        own, weight = np.ones(positive, int), raw - 0.9  # what is left after one each goes where many were drawn
        while own.sum() < cmbs:
            free = weight * (own < MAX_CMBS)
            own = np.minimum(own + rng.multinomial(cmbs - own.sum(), free / free.sum()), MAX_CMBS)
        counts[rng.permutation(scans)[:positive]] = own
    return counts


def new_counts(rng: np.random.Generator, counts: np.ndarray, new_cmbs: int) -> np.ndarray:
    """New microbleeds of each subject (scans,), `new_cmbs` in all; who has many gets more (weight .3 + count: assumed)."""
    new = np.zeros_like(counts)
    while new.sum() < new_cmbs:
        weight = (0.3 + counts) * (counts + new < MAX_CMBS)
        drawn = rng.multinomial(new_cmbs - new.sum(), weight / weight.sum())
        new = np.minimum(new + drawn, MAX_CMBS - counts)
    return new


def _request(
    scans: int,
    cmbs: int,
    seed: int,
    cmb_free: int,
    presets: Sequence[str],
    new_cmbs: int | None,
    changes: dict,
    calcifications: int,
) -> dict:
    """Check the numbers; what was asked for, as JSON gives it back."""
    unknown = sorted(set(presets) - set(PRESETS))
    if unknown or not presets:
        raise InputError(
            "phantom-setting", "phantom preset", " or ".join(PRESETS), ", ".join(unknown) or "none", "choose one or more of them"
        )
    if not 1 <= scans <= 999:
        raise InputError("phantom-setting", "phantom scans", "1 to 999", str(scans), "ask for another number of scans")
    if not 0 <= cmb_free <= scans:
        raise InputError(
            "phantom-setting",
            "phantom cmb_free",
            f"0 to {scans}, the number of scans",
            str(cmb_free),
            "ask for fewer scans without microbleeds",
        )
    if seed < 0:
        raise InputError("phantom-setting", "phantom seed", "0 or more", str(seed), "give another seed")
    positive = scans - cmb_free
    if not positive <= cmbs <= positive * MAX_CMBS:
        expected = f"{positive} to {positive * MAX_CMBS} for {positive} scans that have 1 to {MAX_CMBS} each"
        raise InputError("phantom-setting", "phantom cmbs", expected, str(cmbs), "change cmbs, scans or cmb_free")
    if new_cmbs is not None and not 0 <= new_cmbs <= scans * MAX_CMBS - cmbs:
        expected = f"0 to {scans * MAX_CMBS - cmbs} for {scans} subjects with at most {MAX_CMBS} each"
        raise InputError("phantom-setting", "phantom new_cmbs", expected, str(new_cmbs), "ask for fewer")
    if not 0 <= calcifications <= MAX_CALCIFICATIONS:
        got = str(calcifications)
        raise InputError(
            "phantom-setting", "phantom calcifications", f"0 to {MAX_CALCIFICATIONS} more in each scan", got, "ask for fewer"
        )
    numbers = {"scans": scans, "cmbs": cmbs, "seed": seed, "cmb_free": cmb_free, "new_cmbs": new_cmbs}
    numbers |= {"calcifications": calcifications} if calcifications else {}  # left out, older datasets are what they were
    return {"version": __version__, **numbers, "presets": list(presets), "changes": plain_json(changes)}


def _claim(out: Path, request: dict) -> None:
    """Make `out` this request's folder, or find that it is."""
    if out.exists() and not out.is_dir():
        raise InputError("folder-taken", out, "a folder to write to", "a file", "name another folder")
    if (out / REQUEST).is_file():
        if _read_request(out) != request:
            got = f"another request or version in {REQUEST}"
            raise InputError("folder-taken", out, "an empty folder or the same request", got, "name another folder")
    elif out.is_dir() and any(not p.name.startswith(".partial-") for p in out.iterdir()):
        raise InputError("folder-taken", out, "an empty folder", "one with other files in it", "name another folder")
    else:
        write_json(out / REQUEST, request)


def _read_request(out: Path) -> dict | None:
    """What an earlier run was asked for; None when that cannot be read."""
    try:
        return read_json(out / REQUEST)
    except ValueError:
        return None


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    if min(workers, len(jobs)) <= 1:
        yield from map(_write_subject, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_subject, jobs)


def _write_subject(job: _Job) -> None:
    """Simulate one subject and write its files, each time point's truth.json last."""
    from threadpoolctl import threadpool_limits  # comes with nilearn

    try:
        with threadpool_limits(1):
            scans = simulate_subject(job.seed, job.n_cmbs, job.config, job.subject, job.request.get("calcifications", 0))
    except InputError as error:
        raise InputError(error.code, f"{job.subject} ({job.preset})", error.expected, error.got, error.remedy) from error
    for session, scan in zip(job.sessions, scans, strict=True):
        _write_scan(job, session, scan)


def as_read(scan: SimulatedScan) -> tuple[Annotation, ...]:
    """A scan's annotations with the microbleeds that a reader could not tell from their surroundings as `possible`.

    These are the ones less dark than DARK: in a noisy or coarse scan many are, and a network that has to find them learns noise.
    """
    cmbs = [a for a in scan.annotations if a.is_cmb]
    centres = np.array([a.centre_mm for a in cmbs]).reshape(-1, 3)
    dark = darkness(scan.swi, index_from_world(centres, scan.swi.affine)) >= DARK
    faint = {id(a) for a, is_dark in zip(cmbs, dark, strict=True) if not is_dark}
    return tuple(replace(a, label="possible") if id(a) in faint else a for a in scan.annotations)


def _write_scan(job: _Job, session: str, scan: SimulatedScan) -> None:
    for kind, path in job.files(session).items():
        write_volume(path, getattr(scan, kind), np.uint8 if kind in MASKS else np.int16)
    rows = [asdict(a) for a in (as_read(scan) if job.request.get("faint_as_possible") else scan.annotations)]
    write_json(job.truth(session), scan.truth | {"request": job.request, "preset": job.preset, "annotations": rows})
