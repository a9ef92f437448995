"""The whole recipe on scans of another make, as a site would: the stages of the pipeline, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from cmb_models.config import Params
from cmb_models.errors import InputError
from cmb_models.files import write_text

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "ingest",
    "split",
    "preprocess",
    "tune_unet",
    "mine_candidates",
    "tune_cnn",
    "cross_validate",
    "calibrate",
    "train",
    "export",
)


def train(workspace: Path, params: Params, locked: str) -> Path:
    """Run the stages in a workspace that holds data/raw, with the dataset `locked` kept apart; returns the bundle's folder."""
    settings = params.model_dump(mode="json")
    settings["ingest"]["raw_dir"] = "data/raw"
    settings["split"] |= {"locked_datasets": [locked], "locked_fraction": 0.0}
    write_text(workspace / "params.yaml", yaml.safe_dump(settings, sort_keys=False))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CMB_LOG": "ERROR"}
    environment.pop("MLFLOW_TRACKING_URI", None)  # such models do not belong in a site's own registry
    for stage in STAGES:
        print(f"stage {stage}", flush=True)
        if code := subprocess.run([sys.executable, "-m", f"pipelines.{stage}"], cwd=workspace, env=environment).returncode:
            raise InputError(f"stage {stage}", "exit code 0", str(code), "see its own words above")
    return workspace / "models/bundle"
