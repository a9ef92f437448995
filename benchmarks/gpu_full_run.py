"""A site's training by the stages' own functions, five folds and fifty trials, for as long as there is time: part of gpu_check.

    python -m benchmarks.gpu_full_run STAGE SCALE     one stage, in the workspace that is the current folder

Each stage is a process group that is killed at its deadline; what it had done until then gives its estimated duration. The stages
that judge, export and report are left out, and so are git, DVC and MLflow. A search that was cut off leaves the recipe as it is; a
training that would not fit, by the rate of the search before it, takes fewer steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmb_models.config.params import Params, load_params
from cmb_models.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDS, TRIALS, PARALLEL_TRIALS = 5, 50, 10
# As `make full-demo` simulates them; the split requires a held-out set.
SITE, HELD_OUT = {"scans": 15, "cmbs": 40, "cmb_free": 3, "seed": 1}, {"scans": 1, "cmbs": 1, "seed": 2}
# Of the time that is left when a stage begins.
SHARES = {"simulate": 0.4, "preprocess": 0.4, "tune_unet": 0.4, "detect_candidates": 0.6, "tune_cnn": 0.4, "cross_validate": 0.6}
SHARES |= {"train": 1.0}
# Without their outputs no later stage can run.
REQUIRED = ("simulate", "preprocess", "detect_candidates")
SEARCHES = {"tune_unet": "unet", "tune_cnn": "cnn"}
# Trainings: the search whose rate they are judged by, and how many run side by side.
TRAININGS = {"detect_candidates": ("tune_unet", FOLDS), "cross_validate": ("tune_cnn", FOLDS), "train": ("tune_unet", 2)}
RAW, INDEX, SPLIT, PREPARED, CANDIDATES = map(Path, ("raw", "index.json", "split.json", "prepared", "candidates"))
PROGRESS = Path("progress.json")


def full_run(row: dict[str, Any], folder: Path, seconds: float, scale: float, device: str, save: Callable[[], None]) -> None:
    """Run the stages one after the other until the time is over; `row` is filled, and `save` called, after each.

    scale: factor on steps and trials, below 1 to test this. gpu_full_run_min is None unless every stage ended;
    instead estimated_full_run_min is the sum of what they took or would have taken, None if one could not begin.
    """
    deadline = time.monotonic() + seconds
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    variables |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    stages: dict[str, dict[str, Any]] = {}
    row |= {"folds": FOLDS, "trials": _scaled(TRIALS, scale, 2), "scale": scale, "stages": stages}
    for stage, share in SHARES.items():
        limit_s = share * max(0.0, deadline - time.monotonic())
        share_of_steps = fitting_share(stage, stages, limit_s, scale)
        stages[stage] = run_stage(stage, folder, limit_s, scale, share_of_steps, variables)
        ended = [s["ended"] and s["share_of_steps"] == 1 for s in stages.values()]
        whole = all(ended) and len(stages) == len(SHARES)
        parts = [s.get("estimated_s") for s in stages.values()]
        total = None if None in parts or len(stages) < len(SHARES) else sum(parts) / 60
        row |= {"gpu_full_run_min": total if whole and scale == 1 else None, "estimated_full_run_min": None if whole else total}
        save()
        print(f"  {stage}: {stages[stage]}", flush=True)
        if stage in REQUIRED and not stages[stage]["ended"]:
            break


def fitting_share(stage: str, stages: dict[str, dict[str, Any]], limit_s: float, scale: float) -> float:
    """The share of a training's steps for which there is time, 1 for all. Fewer processes side by side are taken to be slower."""
    search, processes = TRAININGS.get(stage, ("", 0))
    before = stages.get(search, {})
    if not before.get("steps"):
        return 1.0
    rate = before["steps"] / before["seconds"] * min(1.0, processes / PARALLEL_TRIALS)
    share = 0.7 * limit_s * rate / planned_steps(settings(scale), stage)
    return min(1.0, max(0.02, share))


def run_stage(
    stage: str, folder: Path, limit_s: float, scale: float, share_of_steps: float, variables: dict[str, str]
) -> dict[str, Any]:
    """One stage in a process group of its own: whether it ended, how far it came, its seconds and its estimated whole duration."""
    (folder / PROGRESS).unlink(missing_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu_full_run", stage, str(scale * share_of_steps)]
    log = folder / f"{stage}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=stream, stderr=stream, start_new_session=True)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    taken = time.monotonic() - start
    progress = read_json(folder / PROGRESS) if (folder / PROGRESS).is_file() else {}
    whole_s = estimate(code == 0, taken, progress)
    found = {"ended": code == 0, "share_of_steps": share_of_steps, "seconds": taken, **progress}
    found["estimated_s"] = None if whole_s is None else whole_s / share_of_steps
    if code:
        found["error"] = log.read_text(errors="replace").strip().splitlines()[-1:]
    return found


def estimate(ended: bool, seconds: float, progress: dict[str, int]) -> float | None:
    """A stage's whole duration from what it has done: by finished trials if there are any, else by steps; None without either."""
    if ended:
        return seconds
    for done, of in (("trials", "of_trials"), ("steps", "of_steps")):
        if progress.get(done):
            return seconds * max(1.0, progress[of] / progress[done])
    return None


def settings(scale: float) -> Params:
    """The shipped parameters with the folds and trials of this run."""
    params = load_params(ROOT / "params.yaml")
    changes: dict[str, dict[str, Any]] = {"split": {"folds": FOLDS, "locked_datasets": ("locked",), "locked_fraction": 0.0}}
    changes["lesion_bank"] = {"lesions": _scaled(params.lesion_bank.lesions, scale, 8)}
    search = {"trials": _scaled(TRIALS, scale, 2), "parallel_trials": PARALLEL_TRIALS}
    for name in ("unet", "cnn", *SEARCHES):
        steps = _scaled(getattr(params, name).steps, scale, 4)
        changes[name] = {"steps": steps, **(search if name in SEARCHES else {})}
    return params.model_copy(update={n: getattr(params, n).model_copy(update=change) for n, change in changes.items()})


def _scaled(count: int, scale: float, least: int) -> int:
    return max(least, round(count * scale))


def simulate(params: Params) -> None:
    """The scans, their index and the split."""
    from cmb_models.dataset.index import index_datasets
    from cmb_models.dataset.split import split_subjects
    from cmb_models.phantom import write_dataset

    write_dataset(RAW / "site", **SITE)
    write_dataset(RAW / "locked", **HELD_OUT)
    index = index_datasets(RAW, params.preprocess)
    write_json(INDEX, index)
    write_json(SPLIT, split_subjects(index["scans"], params.split, params.ingest.min_scans))


def preprocess(params: Params) -> None:
    """As the stage of this name; so below."""
    from cmb_models.training.data.preparation import prepare_training

    prepare_training(RAW, read_json(INDEX)["scans"], read_json(SPLIT), params.preprocess, params.lesion_bank, PREPARED)


def tune_unet(params: Params) -> None:
    from cmb_models.training.tuning.objective import search_unet

    write_json(Path("unet.json"), search_unet(params, PREPARED, read_json(SPLIT)))


def detect_candidates(params: Params) -> None:
    from cmb_models.training.validation.cross_validation import candidates_out_of_fold
    from cmb_models.training.validation.jobs import save_candidates

    for scan in candidates_out_of_fold(params, tuned(params, "unet"), PREPARED, read_json(SPLIT)):
        save_candidates(CANDIDATES, scan)


def tune_cnn(params: Params) -> None:
    from cmb_models.training.tuning.objective import search_cnn

    write_json(Path("cnn.json"), search_cnn(params, PREPARED, CANDIDATES, read_json(SPLIT)))


def cross_validate(params: Params) -> None:
    from cmb_models.training.validation import cross_validation

    cross_validation.cross_validate(params, tuned(params, "cnn"), PREPARED, CANDIDATES, read_json(SPLIT))


def train(params: Params) -> None:
    from cmb_models.training.final import train_both

    train_both(tuned(params, "unet"), tuned(params, "cnn"), PREPARED, CANDIDATES, read_json(SPLIT), params.train.seed)


def tuned(params: Params, network: str) -> Any:
    """The recipe with what the search found, if it ended."""
    from cmb_models.training.tuning.objective import apply_tuned

    file, recipe = Path(f"{network}.json"), getattr(params, network)
    return apply_tuned(recipe, read_json(file)) if file.is_file() else recipe


def planned_steps(params: Params, stage: str) -> int:
    """Optimizer steps of a stage; of a search without pruning."""
    unet, cnn = params.unet.steps, params.cnn.steps
    if stage in SEARCHES:
        search = getattr(params, stage)
        return int(search.trials * FOLDS * search.steps)
    return {"detect_candidates": FOLDS * unet, "cross_validate": FOLDS * cnn, "train": unet + cnn}.get(stage, 0)


@contextlib.contextmanager
def progress_written(params: Params, stage: str) -> Iterator[None]:
    """Write steps, folds and trials that are done to PROGRESS every second while the block runs."""
    from cmb_models.training import final
    from cmb_models.training.tuning import objective
    from cmb_models.training.validation import cross_validation
    from cmb_models.training.validation.workers import Workers

    pools: list[Any] = []
    earlier = 0

    class Counted(Workers):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            pools.append(self)

        def map(self, function: Any, jobs: Any, steps: int, description: str) -> list:
            nonlocal earlier
            results = super().map(function, jobs, steps, description)
            earlier += self._steps.value
            self._steps.value = 0
            return results

    for module in (objective, cross_validation, final):
        module.Workers = Counted
    done = threading.Event()

    def write() -> None:
        found = {"steps": earlier + sum(p._steps.value for p in pools), "of_steps": planned_steps(params, stage)}
        if stage in SEARCHES:
            found |= {"trials": finished_trials(SEARCHES[stage]), "of_trials": getattr(params, stage).trials}
        write_json(PROGRESS, found)

    def watch() -> None:
        while not done.wait(1.0):
            write()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        write()


def finished_trials(network: str) -> int:
    """Of a search, in the database that it writes; 0 before there is one. Optuna itself would create tables."""
    from cmb_models.training.tuning.storage import DATABASE

    query = "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name LIKE ? AND state IN ('COMPLETE', 'PRUNED')"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True, timeout=0.5)) as database,
    ):
        return int(database.execute(query, (f"{network}-%",)).fetchone()[0])
    return 0


STAGES = {f.__name__: f for f in (simulate, preprocess, tune_unet, detect_candidates, tune_cnn, cross_validate, train)}


def main(stage: str, scale: str) -> None:
    """Run one stage in the current folder."""
    from cmb_models.machine import limit_threads

    limit_threads()
    params = settings(float(scale))
    with progress_written(params, stage) if planned_steps(params, stage) else contextlib.nullcontext():
        STAGES[stage](params)


if __name__ == "__main__":
    main(*sys.argv[1:])
