"""The stages of the pipeline one after the other, as `dvc repro` runs them, in a new workspace."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cmb_models.config.params import Params, load_params
from cmb_models.errors import InputError
from cmb_models.files import write_text
from cmb_models.workspace.template import create

ROOT = Path(__file__).resolve().parents[1]
TO_BUNDLE = (
    "ingest",
    "split",
    "initialise",
    "preprocess",
    "tune_unet",
    "detect_candidates",
    "tune_cnn",
    "cross_validate",
    "calibrate",
    "train",
    "export",
)

# What a start from random weights needs; and the networks of all figures from before the base release.
RANDOM_START: dict[str, dict[str, Any]] = {
    "unet": {"steps": 1600, "learning_rate": 0.01},
    "cnn": {"steps": 1200, "learning_rate": 0.003},
}
SMALL = {"channels": (8, 16, 32)}


def recipe_from_random(file: Path | None = None) -> Params:
    """Settings of trainings from random weights: those of `file`, else params.yaml's with RANDOM_START and SMALL networks."""
    if file:
        return load_params(file)
    params = load_params(ROOT / "params.yaml")
    changed = {name: getattr(params, name).model_copy(update=own | SMALL) for name, own in RANDOM_START.items()}
    return params.model_copy(update=changed)


@contextlib.contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """The folder that a benchmark works in: the user's, or one that is removed afterwards."""
    if keep:
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def create_workspace(folder: Path, params: Params, locked: str) -> None:
    """Make a folder, which may hold data/raw already, a workspace with these settings and the dataset `locked` kept apart."""
    create(folder)
    settings = params.model_dump(mode="json")
    settings["ingest"]["raw_dir"] = "data/raw"
    settings["split"] |= {"locked_datasets": [locked], "locked_fraction": 0.0}
    write_text(folder / "params.yaml", yaml.safe_dump(settings, sort_keys=False))


def run_stages(workspace: Path, stages: Iterable[str] = TO_BUNDLE) -> Iterator[tuple[str, float]]:
    """Run stages in a workspace that holds data/raw; each one's name and seconds as it is done.

    Raises InputError for a stage that fails; its own words then stand above.
    """
    environment = os.environ | {"CMB_LOG": "ERROR"}
    environment.pop("MLFLOW_TRACKING_URI", None)  # such models do not belong in a site's own registry
    for stage in stages:
        print(f"stage {stage}", flush=True)
        start = time.perf_counter()
        if code := subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], cwd=workspace, env=environment).returncode:
            raise InputError("command-failed", f"stage {stage}", "exit code 0", str(code), "see its own words above")
        yield stage, time.perf_counter() - start
