"""How long a whole run takes: five folds, fifty trials of each network, from scans to a bundle, on `make full-demo`'s scans.

    python -m research.full_run [--trials 50] [--side-by-side 10] [--locked-seed 17] [--keep FOLDER] [--out FILE.json]

The stages run one after the other as `dvc repro` runs them, then the bundle is evaluated on the held-out scans. What is measured is
written after every stage, so that a run that is stopped tells of those that it finished. On a CUDA device trainings use it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from cmb_models.cli import simulate as cli_simulate
from cmb_models.config.params import Params, load_params
from cmb_models.errors import InputError
from cmb_models.evaluation.exposure_log import require_whole
from cmb_models.evaluation.run import score_scans
from cmb_models.evaluation.summary import locked_metrics
from cmb_models.files import read_json, write_json
from cmb_models.machine import cores
from cmb_models.release.bundle import BundleDetector
from research.exposure import EXPOSURE_LOG, log_evaluation
from research.stages import ROOT, create_workspace, folder_for, run_stages
from scripts.demo import LOCKED_FULL, SETTINGS_FULL, SITE_FULL

SITE, LOCKED = "site", "locked"
LIMIT_MINUTES = 30.0  # asked of one H200
REPORTED = (
    "n_scans",
    "n_lesions",
    "hits",
    "sensitivity",
    "fp_per_scan",
    "precision",
    "f1",
    "sensitivity_at_0.6_fp",
    "intervals_95",
)


def settings(params: Params, trials: int, parallel_trials: int) -> Params:
    """params.yaml as `make full-demo` changes it, with this many trials of each network."""
    tuning = {"trials": trials, "parallel_trials": parallel_trials}
    changed = params.model_dump(mode="json")
    for settings in (SETTINGS_FULL, {"tune_unet": tuning, "tune_cnn": tuning}):
        for section, values in settings.items():
            changed[section] |= values
    return Params.model_validate(changed)


def simulate(raw: Path, options: list[str], workers: int, seed: int | None = None) -> None:
    """A dataset by `cmb simulate` with the options that the full demo gives it. seed: in place of theirs."""
    seeds = [] if seed is None else ["--seed", str(seed)]  # of two the command takes the last
    command = typer.Typer()
    cli_simulate.add_to(command)
    command([str(raw), *options, *seeds, "--workers", str(workers)], standalone_mode=False)


def tuned(workspace: Path) -> dict:
    """What tuning came to: of each network the best trial, and how many of the trials were pruned."""
    found = {name: read_json(workspace / f"models/tuned/{name}.json") for name in ("unet", "cnn")}
    return {
        name: {k: f[k] for k in ("settings", "trial", "best_value")}
        | {"trials": len(f["trials"]), "pruned": sum(t["state"] == "PRUNED" for t in f["trials"])}
        for name, f in found.items()
    }


def judge(workspace: Path, params: Params) -> dict:
    """Figures out of fold, and of the bundle on the locked scans: an evaluation that is logged."""
    detector, split = BundleDetector(workspace / "models/bundle"), read_json(workspace / "data/split.json")
    index = [s for s in read_json(workspace / "data/index.json")["scans"] if s["subject"] in split["locked"]]
    scans = score_scans(detector, workspace / "data/raw", index)
    print(log_evaluation(detector, index, scans, params.evaluate.tolerance_mm))
    rng = np.random.default_rng(params.evaluate.seed)
    locked, _ = locked_metrics(scans, detector.bundle.config.decision.threshold, params, rng)
    out_of_fold = read_json(workspace / "reports/cross_validate/metrics.json")
    return {"out_of_fold": {k: out_of_fold[k] for k in REPORTED}, "locked": {k: locked[k] for k in REPORTED}}


def main(
    trials: Annotated[int, typer.Option(min=1, help="Of each network.")] = 50,
    parallel_trials: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 10,
    locked_seed: Annotated[int | None, typer.Option(help="Of the locked scans, in place of the full demo's.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the workspace in this new folder.")] = None,
    out: Path = ROOT / "research/results/full_run.json",
    params_file: Annotated[Path, typer.Option("--params")] = ROOT / "params.yaml",
) -> None:
    require_whole(EXPOSURE_LOG)
    params, n_cores = settings(load_params(params_file), trials, parallel_trials), cores()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report = {"device": device, "cores": n_cores, "torch": torch.__version__, "folds": params.split.folds, "trials": trials}
    report |= {"parallel_trials": parallel_trials, "limit_minutes": LIMIT_MINUTES, "locked_seed": locked_seed, "seconds": {}}
    with folder_for(keep) as workspace:
        for name, options, seed in ((SITE, SITE_FULL, None), (LOCKED, LOCKED_FULL, locked_seed)):
            simulate(workspace / "data/raw" / name, options, n_cores, seed)
        create_workspace(workspace, params, LOCKED)
        for stage, seconds in run_stages(workspace):
            report["seconds"][stage] = seconds
            write_json(out, report)
            print(f"{stage:16}{seconds:8.1f} s", flush=True)
        report |= {"minutes": sum(report["seconds"].values()) / 60, "tuned": tuned(workspace)}
        write_json(out, report)
        write_json(out, report | judge(workspace, params))
    print(f"{report['minutes']:.1f} minutes on {device} with {n_cores} cores (limit {LIMIT_MINUTES:g} on an H200)")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
