"""Train on 3 to 30 scans and evaluate on 30 others: our two networks and the alternatives, with the same budget.

    python -m research.accuracy [--sizes 3,5,8,10,15,30] [--draws 3] [--steps-scale 1] [--methods two-stage,segmentation,radial]

nnU-Net, where a Python has it: --nnunet-python PYTHON; on a CPU, where a training takes hours, with plans for less memory and for
some sizes and draws alone: --nnunet-memory-gb 1 --nnunet-sizes 15 --nnunet-draws 1

A killed run continues where it stopped: every finished training is kept below --cache, and repeated only when its scans, its
settings or its code change. Writes accuracy.json and accuracy.png to research/results, of what is finished when it ends.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import torch
import typer

from cmb_models.config.params import Params
from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.machine import cores
from research.accuracy import points as store
from research.accuracy.methods import METHODS, NNUNET, RADIAL, Task, extract_spots, run, total_steps
from research.accuracy.report import RATE, Resampled, picture, table
from research.accuracy.scans import POOL, ROOT, ScanRequest, Scans, code_hash, draw, prepare, short_hash, simulate, split_of
from research.alternatives import nnunet
from research.stages import recipe_from_random

# Cost of a training relative to that of the two networks, for the time left: by optimizer steps; nnU-Net's is a guess.
COST = {"two-stage": 1.0, "unplanted": 1.0, "segmentation": 1.0, "stage1-long": 1.0, "radial": 0.01, "nnunet": 5.0}
DEFAULT = "two-stage,segmentation,radial,nnunet"


def scaled(params: Params, scale: float, draw: int) -> Params:
    """The recipe with `scale` times the steps, and seeds of its own for each draw."""
    changes = {name: getattr(params, name).model_dump() for name in ("unet", "cnn", "detect_candidates", "train")}
    for name in ("unet", "cnn"):
        changes[name]["steps"] = max(4, round(scale * changes[name]["steps"]))
    for name in ("detect_candidates", "train"):
        changes[name]["seed"] += draw
    return Params.model_validate({**params.model_dump(), **changes})


def listed(text: str, name: str, allowed: tuple[str, ...] | None = None) -> list[str]:
    """Comma-separated words; InputError for none, one twice, or one that is not `allowed` (numbers above 0 when that is None)."""
    words = [w.strip() for w in text.split(",") if w.strip()]
    good = [w in allowed if allowed else w.isdigit() and int(w) > 0 for w in words]
    if not words or not all(good) or len(set(words)) < len(words):
        expected = "a list of " + (", ".join(allowed) if allowed else "whole numbers above 0, as 3,15,30")
        raise InputError("options-conflict", name, expected, repr(text), "correct the option")
    return words


def tasks_of(
    scans: Scans, cache: Path, params: Params, scale: float, sizes: list[int], draws: int, methods: list[str], how: nnunet.How
) -> list[Task]:
    """All trainings, one draw after the other, so that a run that is stopped has whole curves. how: nnU-Net is run, and where."""
    prepared = prepare(cache, scans, params)
    spots = code_hash(["research/alternatives/radial_symmetry.py", "cmb_models/detect"])
    extra = cache / f"spots-{short_hash([scans.name, spots, params.preprocess.model_dump(mode='json')])}"
    tasks = []
    for number in range(draws):
        own = scaled(params, scale, number)
        for size in sizes:
            split = split_of(scans, draw(scans.subjects(POOL), size, number, params.split.seed), params.split)
            chosen = [m for m in methods if m != "nnunet" or how.wants(size, number)]
            tasks += [Task(m, size, number, split, scans.raw, prepared, extra, own, how) for m in chosen]
    return tasks


def finish(todo: list[Task], paths: list[Path], workers: int, pool: Executor) -> Iterator[tuple[Task, float]]:
    """Run tasks and store each one's points as it ends; yields them with their seconds. Failed ones are reported at the end."""
    running = {pool.submit(run, task): n for n, task in enumerate(todo)}
    faults = []
    for done in as_completed(running):
        task = todo[running[done]]
        try:
            outcomes, seconds = done.result()
        except Exception as error:  # a night's other trainings must not be lost with one
            faults.append(f"{task.method}, {task.size} scans, draw {task.draw}: {type(error).__name__}: {error}")
            print(f"failed: {faults[-1]}", flush=True)
            continue
        store.save(paths[running[done]], task, outcomes, seconds, workers)
        if task.method == "nnunet":
            done_with = task.work.rename(task.work.with_name(f".partial-{task.work.name}"))  # half removed it must not be found
            shutil.rmtree(done_with)
        yield task, seconds
    if faults:
        raise InputError(
            "command-failed",
            "trainings",
            "all to finish",
            f"{len(faults)} failed:\n" + "\n".join(faults),
            "mend these and run again",
        )


def write_report(
    out: Path, paths: list[Path], scans: Scans, seed: int, params: Params, scale: float, not_run: dict[str, str]
) -> str:
    """Write accuracy.json and accuracy.png from the finished trainings; returns the table of means."""
    points = [p for path in paths for p in store.load(path, scans.raw / "test")]
    resampled, own = Resampled(points, params), scaled(params, scale, 0)
    test = [e for e in scans.index if e["dataset"] == "test"]
    lesions = sum(e["n_cmbs"] for e in test)
    about = {
        "sizes": resampled.sizes,
        "rate_fp_per_scan": RATE,
        "test": {"scans": len(test), "lesions": lesions, "without": sum(not e["n_cmbs"] for e in test)},
        "scans_seed": seed,
        "pool": {"scans": len(scans.index) - len(test), "lesions": sum(e["n_cmbs"] for e in scans.index) - lesions},
        "budget": {
            "steps": total_steps(own),
            "steps_scale": scale,
            "unet_steps": own.unet.steps,
            "cnn_steps": own.cnn.steps,
            "folds": own.split.folds,
            "batch": own.unet.batch,
            "tuning": "none: params.yaml's unet and cnn as they stand",
        },
        "cores": cores(),
        "methods": resampled.methods() + [{"name": n, "points": [], "not_run": why} for n, why in not_run.items()],
        "means": resampled.means(),
        "differences": resampled.differences(),
    }
    write_json(out / "accuracy.json", about)
    title = f"{lesions} microbleeds in {len(test)} unseen simulated scans; {own.unet.steps} steps a U-Net\n"
    picture(resampled, title + "bars: 95 % over test subjects; dots: draws of training scans", out / "accuracy.png")
    return table(resampled)


def main(
    sizes: str = "3,5,8,10,15,30",
    draws: Annotated[int, typer.Option(min=1, help="Training sets of each size.")] = 3,
    steps_scale: Annotated[float, typer.Option(min=0.001, help="Times the training steps of params.yaml, for all methods.")] = 1.0,
    methods: Annotated[str, typer.Option(help=f"Of {', '.join(METHODS)}.")] = DEFAULT,
    workers: Annotated[int, typer.Option(min=0, help="Trainings side by side; 0 for one a core, or one on a GPU.")] = 0,
    cache: Path = ROOT / "research/.cache",
    out: Path = ROOT / "research/results",
    params_file: Annotated[Path | None, typer.Option("--params", help="In place of the recipe from random weights.")] = None,
    pool_scans: Annotated[int, typer.Option(min=3)] = ScanRequest.pool,
    test_scans: Annotated[int, typer.Option(min=2)] = ScanRequest.test,
    scans_seed: Annotated[int, typer.Option(min=0, help="Of the pool's scans; the test set has the next one.")] = ScanRequest.seed,
    preset: Annotated[list[str] | None, typer.Option(help="Protocols in place of the mixed ones.")] = None,
    nnunet_python: Annotated[str, typer.Option(help="Python that has nnunetv2; given, it is run without a GPU, too.")] = "",
    nnunet_memory_gb: Annotated[float, typer.Option(min=0, help="GPU memory its plans may fill; 0 for its own choice, 8.")] = 0,
    nnunet_sizes: Annotated[str, typer.Option(help="Of --sizes, those it is trained on; without, all.")] = "",
    nnunet_draws: Annotated[int, typer.Option(min=0, help="Of --draws, the first that it is trained on; 0 for all.")] = 0,
) -> None:
    params, wanted = (
        recipe_from_random(params_file),
        ScanRequest(pool_scans, test_scans, tuple(preset or ScanRequest.presets), scans_seed),
    )
    asked = listed(methods, "--methods", tuple(METHODS))
    counts = [int(s) for s in listed(sizes, "--sizes")]
    some = tuple(int(s) for s in listed(nnunet_sizes, "--nnunet-sizes", tuple(map(str, counts)))) if nnunet_sizes else ()
    how = nnunet.How(nnunet_python, nnunet_memory_gb, some, nnunet_draws)
    workers = workers or (1 if torch.cuda.is_available() else cores())
    reason = nnunet.unavailable(nnunet_python) if "nnunet" in asked else None
    not_run = {NNUNET: f"not run: {reason}"} if reason else {}
    asked = [m for m in asked if m != "nnunet" or not reason]
    scans = simulate(cache, wanted, workers)
    tasks = tasks_of(scans, cache, params, steps_scale, counts, draws, asked, how)
    paths = [store.path_of(cache, t, scans) for t in tasks]
    try:
        run_all(tasks, paths, workers)
    finally:
        print(write_report(out, paths, scans, wanted.seed, params, steps_scale, not_run))


def run_all(tasks: list[Task], paths: list[Path], workers: int) -> None:
    """Run the tasks that have no file yet, and tell after each how long the others will take."""
    missing = [(t, p) for t, p in zip(tasks, paths, strict=True) if not p.is_file()]
    todo = [task for task, _ in missing]
    print(f"{len(tasks)} trainings, {len(tasks) - len(todo)} of them done; {workers} side by side", flush=True)
    spawn, threads = multiprocessing.get_context("spawn"), max(1, cores() // workers)
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (threads,)) as pool:
        _extract_all(todo, pool)
        start, done, left = time.perf_counter(), 0.0, sum(COST[t.method] for t in todo)
        for task, seconds in finish(todo, [p for _, p in missing], workers, pool):
            done, left = done + COST[task.method], left - COST[task.method]
            rest = (time.perf_counter() - start) * max(0.0, left) / done / 60
            print(f"{task.method}, {task.size} scans, draw {task.draw}: {seconds:.0f} s; {rest:.0f} min left", flush=True)


def _extract_all(todo: list[Task], pool: Executor) -> None:
    """Radial symmetry's candidates of every scan that some task needs, before any task asks for them."""
    wanted = {scan.key: (scan, t) for t in todo if t.method == "radial" for scan in [*t.training, *t.test]}
    if wanted:
        print(f"{RADIAL}: {len(wanted)} scans", flush=True)
        list(pool.map(extract_spots, *zip(*wanted.values(), strict=True)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
