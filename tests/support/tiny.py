"""Settings with which all stages run in a minute; `python -m tests.support.tiny WORKSPACE` writes them to its params.yaml."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.support.gates import only_asking

TINY = {  # small networks and few steps: enough to run everything, too little to be good
    "unet": {
        "channels": [8, 8, 16],
        "strides": [1, 2, 1],
        "patch_vox": [24, 24, 8],
        "batch": 4,
        "steps": 60,
        "learning_rate": 0.01,
    },
    "cnn": {"channels": [4, 8], "batch": 8, "steps": 30, "learning_rate": 0.003},
    "split": {"folds": 2},
    "train": {"init_from": "random"},
    "tune_unet": {"trials": 2, "steps": 12},
    "tune_cnn": {"trials": 2, "steps": 10},
    "preprocess": {"multiple_vox": [4, 4, 4]},
    "lesion_bank": {"lesions": 27},
    "evaluate": {"bootstrap": 50},
    "gate": only_asking(min_sensitivity=0.0, max_fp_per_scan=40.0, max_parity=0.001, max_seconds=60.0),
}


def shrink(workspace: Path, locked: str = "") -> None:
    """Set small networks, few steps and a gate that hardly asks anything in a workspace's params.yaml. locked: a dataset."""
    path = workspace / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in TINY.items():
        params[section].update(values)
    if locked:
        params["split"] |= {"locked_datasets": [locked], "locked_fraction": 0.0}
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


if __name__ == "__main__":
    shrink(Path(sys.argv[1]))
