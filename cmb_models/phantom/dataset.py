"""A dataset of simulated scans in the layout a site keeps its own in; a killed run continues where it stopped."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from cmb_models import __version__
from cmb_models.errors import InputError
from cmb_models.files import read_json, write_json
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.io.site import ANNOTATIONS
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.scan import MAX_CMBS, simulate_scan
from cmb_models.phantom.template import map_path

REQUEST = "phantom.json"  # what was asked for, at the top of the dataset
COUNT_STRATA = (((1, 1), 0.49), ((2, 4), 0.28), ((5, 9), 0.10), ((10, 30), 0.13))  # FACTS section 3; their sum is 1.01 there


@dataclass(frozen=True)
class _Job:
    out: Path
    subject: str
    n_cmbs: int
    seed: np.random.SeedSequence
    request: dict

    @property
    def truth(self) -> Path:
        return self.out / "derivatives" / "truth" / self.subject / "truth.json"

    @property
    def images(self) -> tuple[Path, Path, Path]:
        """SWI, phase, brain mask."""
        swi = self.out / self.subject / "swi"
        mask = self.out / "derivatives" / "masks" / self.subject / f"{self.subject}_brain.nii.gz"
        return swi / f"{self.subject}_swi.nii.gz", swi / f"{self.subject}_part-phase_swi.nii.gz", mask

    @property
    def done(self) -> bool:
        return self.truth.is_file() and all(p.is_file() for p in self.images)


def write_dataset(
    out: Path,
    scans: int,
    cmbs: int,
    seed: int,
    cmb_free: int = 0,
    workers: int = 2,
    config: PhantomConfig | None = None,
    progress: bool = False,
) -> None:
    """Simulate `scans` scans with `cmbs` microbleeds in all, none of them in `cmb_free` scans; annotations.csv comes last.

    The bytes depend on everything but `workers`. Scans already there from the same request are kept; a folder that holds
    anything else is refused with InputError, as are numbers that cannot be met.
    """
    out = Path(out)
    request = _request(scans, cmbs, seed, cmb_free, config or PhantomConfig())
    if workers < 1:
        raise InputError("phantom workers", "1 or more", str(workers), "give a number of processes")
    map_path("t1")  # refuses before anything is written
    _claim(out, request)
    sequence = np.random.SeedSequence(seed)
    counts = cmb_counts(np.random.default_rng(sequence.spawn(1)[0]), scans, cmbs, cmb_free)
    jobs = [
        _Job(out, f"sub-{n:03d}", int(count), own, request)
        for n, (count, own) in enumerate(zip(counts, sequence.spawn(scans), strict=True), start=1)
    ]
    todo = [job for job in jobs if not job.done]
    for _ in track(_run(todo, workers), "simulating", len(todo), disable=not progress, transient=True):
        pass
    rows = [Annotation(**row) for job in jobs for row in read_json(job.truth)["annotations"]]
    write_annotations(out / ANNOTATIONS, rows)


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


def _request(scans: int, cmbs: int, seed: int, cmb_free: int, config: PhantomConfig) -> dict:
    """Check the numbers; what was asked for, as JSON gives it back."""
    if not 1 <= scans <= 999:
        raise InputError("phantom scans", "1 to 999", str(scans), "ask for another number of scans")
    if not 0 <= cmb_free <= scans:
        raise InputError(
            "phantom cmb_free", f"0 to {scans}, the number of scans", str(cmb_free), "ask for fewer scans without microbleeds"
        )
    if seed < 0:
        raise InputError("phantom seed", "0 or more", str(seed), "give another seed")
    positive = scans - cmb_free
    if not positive <= cmbs <= positive * MAX_CMBS:
        expected = f"{positive} to {positive * MAX_CMBS} for {positive} scans that have 1 to {MAX_CMBS} each"
        raise InputError("phantom cmbs", expected, str(cmbs), "change cmbs, scans or cmb_free")
    numbers = {"scans": scans, "cmbs": cmbs, "seed": seed, "cmb_free": cmb_free}
    return {
        "version": __version__,
        **numbers,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()},
    }


def _claim(out: Path, request: dict) -> None:
    """Make `out` this request's folder, or find that it is."""
    if out.exists() and not out.is_dir():
        raise InputError(out, "a folder to write to", "a file", "name another folder")
    if (out / REQUEST).is_file():
        if read_json(out / REQUEST) != request:
            raise InputError(out, "an empty folder or the same request", f"another request in {REQUEST}", "name another folder")
    elif out.is_dir() and any(not p.name.startswith(".partial-") for p in out.iterdir()):
        raise InputError(out, "an empty folder", "one with other files in it", "name another folder")
    else:
        write_json(out / REQUEST, request)


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    if min(workers, len(jobs)) <= 1:
        yield from map(_write_scan, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_scan, jobs)


def _write_scan(job: _Job) -> None:
    """Simulate one scan and write its files, truth.json last."""
    from threadpoolctl import threadpool_limits  # comes with nilearn

    with threadpool_limits(1):
        scan = simulate_scan(job.seed, job.n_cmbs, _config(job.request), job.subject)
    swi, phase, mask = job.images
    write_volume(swi, scan.swi, np.int16)
    write_volume(phase, scan.phase, np.float32)
    write_volume(mask, scan.brain_mask, np.uint8)
    write_json(job.truth, scan.truth | {"request": job.request, "annotations": [asdict(a) for a in scan.annotations]})


def _config(request: dict) -> PhantomConfig:
    return PhantomConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in request["config"].items()})
