"""A workspace with four real DVC stages that copy a hand-made bundle and its metrics, for the tests of the registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from cmb_models.config.params import Fusion
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.rows import write_rows
from cmb_models.files import write_json
from cmb_models.io.annotations import Annotation
from cmb_models.registry.mlflow.store import open_registry
from cmb_models.release.bundle import write_manifest
from tests.support.bundles import make_bundle
from tests.support.gates import only_asking

GOOD = {"sensitivity": 0.95, "fp_per_scan": 0.5, "precision": 0.9, "f1": 0.92, "n_lesions": 20, "n_scans": 5, "threshold": 0.99}
IGNORED = "/mlflow.db*\n/mlruns/\n/mlartifacts/\n/serving-state/\n/releases/\n/keys/*.key\n"
STAGES = {
    "split": {"cmd": "cp source/split.json data/split.json", "deps": ["source/split.json"], "outs": ["data/split.json"]},
    "export": {"cmd": "cp -r source/bundle models/", "deps": ["source/bundle"], "outs": ["models/bundle"]},
    "evaluate": {
        "cmd": "cp source/evaluate.json reports/evaluate/metrics.json && cp source/evaluation/* reports/evaluate/",
        "deps": ["source/evaluate.json", "source/evaluation", "models/bundle"],
        "outs": [f"reports/evaluate/{name}" for name in ("scans.csv", "lesions.csv", "detections.csv", "froc.json")],
        "metrics": [{"reports/evaluate/metrics.json": {"cache": False}}],
    },
    "cross_validate": {
        "cmd": "cp source/cross_validate.json reports/cross_validate/metrics.json",
        "deps": ["source/cross_validate.json"],
        "metrics": [{"reports/cross_validate/metrics.json": {"cache": False}}],
    },
}
LINEAGE = {
    "studies": {"unet": {"study": "tune_unet-1", "trial": 3}},
    "training_scans": {f"site_sub-{n:02}": hashlib.sha256(f"scan {n}".encode()).hexdigest() for n in range(3)},
    "calibrated_on": ["site_sub-00", "site_sub-01"],
    "locked_scans": {f"locked_sub-{n:02}": hashlib.sha256(f"locked {n}".encode()).hexdigest() for n in range(5)},
}
TOLERANCE_MM = 3.0
PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
PARAMS["gate"] = only_asking(min_sensitivity=0.8, max_fp_per_scan=2, max_parity=0.001)


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True, capture_output=True)


def begin(folder: Path) -> None:
    """Make an empty folder a workspace with a dataset and stages, none of them run yet."""
    git(folder, "init", "-q", "-b", "site")
    git(folder, "config", "user.name", "Site Engineer")
    git(folder, "config", "user.email", "engineer@site.example")
    dvc(folder, "init")
    for name in ("data/raw/phantom", "models", "reports/evaluate", "reports/cross_validate"):
        (folder / name).mkdir(parents=True)
    (folder / "data/raw/phantom/annotations.csv").write_text("subject,session\n")
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (folder / "requirements.lock").write_text("numpy==2.4.6\n")
    dvc(folder, "add", "data/raw/phantom")


def start(folder: Path) -> Path:
    """Make a committed workspace with run stages in an empty folder, and an empty registry; takes seconds, so copy it."""
    begin(folder)
    retrain(folder, GOOD)
    with open_registry(folder) as registry:
        assert registry.releases() == []
    return folder


def set_source(folder: Path, metrics: dict) -> None:
    """The files that the workspace's stages copy: a bundle, and the metrics of both evaluations."""
    shutil.rmtree(folder / "source", ignore_errors=True)
    bundle = make_bundle(folder / "source/bundle")
    (bundle / "metadata.json").write_text(json.dumps({"name": "cmb-detector", "parity": {"unet": 1e-5, "cnn": 1e-6}}))
    (bundle / "lineage.json").write_text(json.dumps(LINEAGE))
    write_manifest(bundle)
    (folder / "source/split.json").write_text('{"locked": ["phantom_sub-02"]}')
    (folder / "source/evaluate.json").write_text(json.dumps(metrics))
    (folder / "source/cross_validate.json").write_text(json.dumps(metrics | {"sensitivity": 0.9}))
    scans = evaluated(metrics)
    write_rows(folder / "source/evaluation", scans, metrics["threshold"], TOLERANCE_MM, Fusion())
    write_json(folder / "source/evaluation/froc.json", froc_table(scans, TOLERANCE_MM))


def evaluated(metrics: dict) -> list[ScoredScan]:
    """Locked scans whose candidates have the sensitivity and the false positives per scan of `metrics`."""
    n_scans, n_lesions = metrics["n_scans"], metrics["n_lesions"]
    hits, false = round(metrics["sensitivity"] * n_lesions), round(metrics["fp_per_scan"] * n_scans)
    scans = []
    for n in range(n_scans):
        own = range(n, n_lesions, n_scans)  # lesion numbers of this scan, 20 mm apart
        marked = tuple(Annotation(f"sub-{n:02}", "", 20.0 * k, 0, 0, 3, "cmb", "reader", "lobar") for k in own)
        centres = [(20.0 * k, 0, 0) for k in own] + [(20.0 * k, 90, 0) for k in range(n, false, n_scans)]
        scores = [0.999 if k < hits else 0.5 for k in own] + [0.995] * (len(centres) - len(marked))
        key, columns = f"locked_sub-{n:02}", np.array(scores)
        scans.append(ScoredScan(key, key, marked, np.array(centres).reshape(-1, 3), columns, columns, columns, (0.9, 0.9, 2.0)))
    return scans


def retrain(folder: Path, metrics: dict) -> None:
    """Run the stages on new sources and commit, as a site does."""
    set_source(folder, metrics)
    dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "retrained")
