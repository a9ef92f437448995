"""nnU-Net v2 (Isensee 2021, Nature Methods 18:203) from its own package, run by its own commands in processes of their own.

It is no dependency of this project. Where a Python has it (`pip install nnunetv2`) and a GPU, or where it is asked for by name,
the scans are written in its raw layout, planned, trained and predicted, and its probabilities are read back as findings.
On a CPU plans for less memory (smaller patches) make of a training of a day one of an hour (How).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.files import read_json, write_json
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.machine import cores
from cmb_models.training.precision import choose_precision
from cmb_models.volume import Volume
from research.alternatives.single_stage import components, sphere_mask

DATASET, CONFIGURATION = 501, "3d_fullres"
NAME = f"Dataset{DATASET}_Microbleeds"
STEPS_PER_EPOCH = 250  # nnUNetTrainer.num_iterations_per_epoch
EPOCHS = {1: "nnUNetTrainer_1epoch"} | {
    n: f"nnUNetTrainer_{n}epochs" for n in (5, 10, 20, 50, 100, 250, 500, 750)
}  # in the package
THRESHOLD = 0.1  # on its probability of a microbleed: its own .5 would end the FROC early
SMALLEST = 1e-38  # probability that float32, in which they are stored, separates from 0
ENTRY = Path(__file__).with_name("nnunet_entry.py")


@dataclass(frozen=True)
class How:
    """How it is run. python: an interpreter that has it, "" for this one. memory_gb: of a GPU that its plans may fill, 0 for its
    own choice (8). sizes, draws: the numbers of scans and the first so many draws it is trained on, () and 0 for all."""

    python: str = ""
    memory_gb: float = 0
    sizes: tuple[int, ...] = ()
    draws: int = 0

    def wants(self, size: int, draw: int) -> bool:
        return (not self.sizes or size in self.sizes) and (not self.draws or draw < self.draws)


def unavailable(python: str) -> str | None:
    """Why nnU-Net cannot run here, None if it can. python: an interpreter that has it, asked for by name; "" for this one."""
    code = "import nnunetv2, torch; print(torch.cuda.is_available())"
    try:
        done = subprocess.run([python or sys.executable, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python} cannot be run ({error.strerror})"
    if done.returncode:
        return "the package nnunetv2 is not installed (pip install nnunetv2, in an environment of its own)"
    if not python and done.stdout.strip() != "True":
        return "no CUDA device; with --nnunet-python it runs on the CPU, for hours"
    return None


def epochs_for(steps: int) -> int:
    """The most epochs among the package's trainers whose steps are within `steps`; one at least."""
    return max((n for n in EPOCHS if n * STEPS_PER_EPOCH <= steps), default=1)


def run(
    training: Sequence[ScanFile], split: dict, test: Sequence[ScanFile], steps: int, how: How, folder: Path
) -> tuple[list[ScoredScan], dict]:
    """Train on all training scans and answer for the test scans. split: {"folds": {subject: fold}}, handed over as its splits.

    Answers are averaged over mirrored inputs, as is its way, on a GPU alone. folder: where its files go; killed, it continues there
    with what was not done, a training from nnU-Net's own last checkpoint (every 50 epochs). Returns the findings and what was run.
    """
    device, trainer = "cuda" if _has_cuda(how.python) else "cpu", EPOCHS[epochs_for(steps)]
    plans = f"nnUNetPlans{how.memory_gb:g}GB" if how.memory_gb else "nnUNetPlans"
    preprocessed = folder / "preprocessed" / NAME
    if not (preprocessed / "splits_final.json").is_file():  # written last
        write_raw(folder / "raw" / NAME, training, test)
        less = ["-gpu_memory_target", f"{how.memory_gb:g}", "-overwrite_plans_name", plans] if how.memory_gb else []
        checks = ["--verify_dataset_integrity", "-c", CONFIGURATION, "-np", "2", "-npfp", "2"]
        _call(folder, how.python, "plan", "-d", str(DATASET), *checks, *less)
        write_json(preprocessed / "splits_final.json", splits(training, split["folds"]))
    trained = ["-tr", trainer, "-p", plans, "-device", device]
    checkpoints = folder / "results" / NAME / f"{trainer}__{plans}__{CONFIGURATION}" / "fold_all"
    if not (checkpoints / "checkpoint_final.pth").is_file():
        goes_on = ["--c"] if (checkpoints / "checkpoint_latest.pth").is_file() else []
        _call(folder, how.python, "train", str(DATASET), CONFIGURATION, "all", *trained, *goes_on)
    places = ["-i", str(folder / "raw" / NAME / "imagesTs"), "-o", str(folder / "answers"), "-d", str(DATASET), "-f", "all"]
    once = ["--disable_tta"] if device == "cpu" else []
    options = ["-c", CONFIGURATION, "--save_probabilities", "--continue_prediction", "-npp", "1", "-nps", "1", *once]
    _call(folder, how.python, "predict", *places, *options, *trained)
    found = [read_answer(folder / "answers", scan) for scan in test]
    planned = read_json(preprocessed / f"{plans}.json")["configurations"][CONFIGURATION]
    about = {"patch_kji": planned["patch_size"], "batch": planned["batch_size"], "mirrored": not once, "threshold": THRESHOLD}
    return found, {"trainer": trainer, "steps": epochs_for(steps) * STEPS_PER_EPOCH, "device": device, **about}


def write_raw(folder: Path, training: Sequence[ScanFile], test: Sequence[ScanFile]) -> None:
    """nnU-Net's raw layout: images as stored, masks with a sphere at each microbleed, dataset.json."""
    for scan in training:
        volume = read_volume(scan.path)
        cmbs = [a for a in scan.annotations if a.is_cmb]
        centres = np.array([a.centre_mm for a in cmbs]).reshape(-1, 3)
        mask = sphere_mask(volume.data.shape, volume.affine, centres, np.array([a.diameter_mm / 2 for a in cmbs]))
        write_volume(folder / "imagesTr" / f"{scan.key}_0000.nii.gz", volume)
        write_volume(folder / "labelsTr" / f"{scan.key}.nii.gz", Volume(mask, volume.affine), np.uint8)
    for scan in test:
        write_volume(folder / "imagesTs" / f"{scan.key}_0000.nii.gz", read_volume(scan.path))
    labels = {"background": 0, "cmb": 1}
    about = {"channel_names": {"0": "SWI"}, "labels": labels, "numTraining": len(training), "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", about)


def splits(training: Sequence[ScanFile], folds: dict[str, int]) -> list[dict]:
    """nnU-Net's splits_final.json with our folds: {"train": [case], "val": [case]} of each."""
    cases = []
    for n in range(max(folds.values()) + 1):
        held = [s.key for s in training if folds[s.subject_key] == n]
        cases.append({"train": [s.key for s in training if s.key not in held], "val": held})
    return cases


def read_answer(folder: Path, scan: ScanFile) -> ScoredScan:
    """nnU-Net's probabilities of one test scan as findings. InputError when they are missing."""
    file = folder / f"{scan.key}.npz"
    if not file.is_file():
        raise InputError("file-not-found", file, "nnU-Net's probabilities", "no such file", "read what nnUNetv2_predict printed")
    with np.load(file) as arrays:
        other, cmb = np.asarray(arrays["probabilities"], dtype=np.float64).transpose(0, 3, 2, 1)  # it stores (k, j, i)
    logits = np.log(np.maximum(cmb, SMALLEST)) - np.log(np.maximum(other, SMALLEST))
    centres, scores = components(logits, read_volume(scan.path).affine, THRESHOLD)
    return ScoredScan(scan.key, scan.subject_key, scan.annotations, centres, scores)


def _has_cuda(python: str) -> bool:
    code = "import torch; print(torch.cuda.is_available())"
    return subprocess.run([python or sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def _call(root: Path, python: str, command: str, *arguments: str) -> None:
    """One of nnU-Net's commands with its folders below `root`; its output goes to <command>.log there."""
    folders = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    log = root / f"{command}.log"
    environment = {**os.environ, **folders, "nnUNet_compile": "false", "nnUNet_n_proc_DA": str(min(12, cores()))}
    environment["CMB_PRECISION"] = choose_precision(torch.device("cpu")).precision
    with log.open("w", encoding="utf-8") as stream:
        line = [python or sys.executable, str(ENTRY), command, *arguments]
        done = subprocess.run(line, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = " | ".join(log.read_text(encoding="utf-8").strip().splitlines()[-3:])
        got = f"{done.returncode}: {last}"
        raise InputError(
            "command-failed", f"nnUNetv2_{command}", "exit code 0", got, "read its messages and correct the installation"
        )
