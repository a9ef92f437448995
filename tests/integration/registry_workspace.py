"""A workspace with four real DVC stages that copy a hand-made bundle and its metrics, for the tests of the registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from cmb_models.bundle import write_manifest
from tests.bundles import make_bundle

GOOD = {"sensitivity": 0.95, "fp_per_scan": 0.5, "precision": 0.9, "f1": 0.92, "n_lesions": 20, "n_scans": 5, "threshold": 0.99}
IGNORED = "/mlflow.db*\n/mlruns/\n/mlartifacts/\n/serving-state/\n/releases/\n"
STAGES = {
    "split": {"cmd": "cp source/split.json data/split.json", "deps": ["source/split.json"], "outs": ["data/split.json"]},
    "export": {"cmd": "cp -r source/bundle models/", "deps": ["source/bundle"], "outs": ["models/bundle"]},
    "evaluate": {
        "cmd": "cp source/evaluate.json reports/evaluate/metrics.json",
        "deps": ["source/evaluate.json", "models/bundle"],
        "metrics": [{"reports/evaluate/metrics.json": {"cache": False}}],
    },
    "cross_validate": {
        "cmd": "cp source/cross_validate.json reports/cross_validate/metrics.json",
        "deps": ["source/cross_validate.json"],
        "metrics": [{"reports/cross_validate/metrics.json": {"cache": False}}],
    },
}
GATE = {"min_sensitivity": 0.8, "max_fp_per_scan": 2, "max_parity": 0.001}
PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text()) | {"gate": GATE}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True, capture_output=True)


def set_source(folder: Path, metrics: dict) -> None:
    """The files that the workspace's stages copy: a bundle, and the metrics of both evaluations."""
    shutil.rmtree(folder / "source", ignore_errors=True)
    bundle = make_bundle(folder / "source/bundle")
    (bundle / "metadata.json").write_text(json.dumps({"name": "cmb-detector", "parity": {"unet": 1e-5, "cnn": 1e-6}}))
    (bundle / "lineage.json").write_text(json.dumps({"studies": {"unet": {"study": "tune_unet-1", "trial": 3}}}))
    write_manifest(bundle)
    (folder / "source/split.json").write_text('{"locked": ["phantom_sub-02"]}')
    (folder / "source/evaluate.json").write_text(json.dumps(metrics))
    (folder / "source/cross_validate.json").write_text(json.dumps(metrics | {"sensitivity": 0.9}))


def retrain(folder: Path, metrics: dict) -> None:
    """Run the stages on new sources and commit, as a site does."""
    set_source(folder, metrics)
    dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "retrained")
