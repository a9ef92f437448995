"""Training on some subjects and detecting in the others: the unit of work of tuning, mining and cross-validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmb_models.config.params import Cnn, Decision, Params, PipelineConfig, Unet
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.dataset.leakage import keep_apart
from cmb_models.detect.detector import propose
from cmb_models.detect.patches import cut_channels
from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.networks.cnn import PatchClassifier, Score
from cmb_models.networks.unet import Heatmap
from cmb_models.runtime.torch import as_callable
from cmb_models.training.checkpoint import Checkpoint, open_checkpoint
from cmb_models.training.data.examples import Example, load_examples
from cmb_models.training.data.samplers import CnnSampler, UnetSampler, label_candidates
from cmb_models.training.identity import content
from cmb_models.training.initial import RANDOM, Initial, load_initial
from cmb_models.training.loop import Diverged, best_device, train_cnn, train_unet
from cmb_models.training.validation.progress_count import count_step

log = logging.getLogger(__name__)

UNDECIDED = Decision(slope=1.0, intercept=0.0, threshold=0.0)  # before calibration: scores as they are, nothing cut


@dataclass(frozen=True)
class OutOfFoldCandidates:
    """Stage 1's candidates in a scan. index_vox: (N, 3) int64 working grid; the rest (N,) and (N, 3).

    trained_on: the subjects that this stage 1 was trained on, by which a user can refuse candidates in scans it knew.
    """

    key: str
    trained_on: frozenset[str]
    index_vox: np.ndarray
    centre_mm: np.ndarray
    stage1_score: np.ndarray


@dataclass(frozen=True)
class UnetJob:
    """Train stage 1 on the `training` subjects' examples in `prepared_dir`, then mine those of `held_out`.

    checkpoints: folder where a killed training leaves its state; None for one too short to be worth it.
    """

    prepared_dir: Path
    training: frozenset[str]
    held_out: frozenset[str]
    unet: Unet
    config: PipelineConfig
    seed: int
    checkpoints: Path | None = None


@dataclass(frozen=True)
class CnnJob:
    """Train stage 2 on the candidates of the `training` subjects, then score those of `held_out`.

    unseen: subjects that no stage 1 behind the training candidates may have seen, besides each scan's own.
    """

    prepared_dir: Path
    candidates_dir: Path
    training: frozenset[str]
    held_out: frozenset[str]
    cnn: Cnn
    seed: int
    unseen: frozenset[str] = frozenset()
    checkpoints: Path | None = None


def pipeline_config(params: Params, cnn: Cnn, decision: Decision = UNDECIDED) -> PipelineConfig:
    """The settings that travel with the networks, from params.yaml and what tuning and calibration added."""
    return PipelineConfig(
        preprocess=params.preprocess, candidates=params.detect_candidates.candidates, patch_vox=cnn.patch_vox, decision=decision
    )


def job_seed(seed: int, *position: int) -> int:
    """A seed of its own for each fold (and trial) of a stage, the same in every run."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1)[0])


def run_unet_job(job: UnetJob) -> list[OutOfFoldCandidates]:
    """Candidates of the held-out scans from a stage 1 that saw the training subjects alone."""
    training, held_out = _divide(job)
    model = fit_unet(training, job.unet, job.seed, job.prepared_dir, job.checkpoints)
    return [candidates_in(e, model, job.config, job.training) for e in held_out]


def _divide(job: UnetJob | CnnJob) -> tuple[list[Example], list[Example]]:
    """A job's training and held-out examples."""
    keep_apart("a training", job.training, job.held_out, "this is a fault of the program: report it")
    examples = load_examples(job.prepared_dir)
    return [e for e in examples if e.subject in job.training], [e for e in examples if e.subject in job.held_out]


def candidates_in(
    example: Example, model: torch.nn.Module, config: PipelineConfig, trained_on: frozenset[str]
) -> OutOfFoldCandidates:
    """Stage 1 on one prepared scan, by the same steps as in production."""
    heatmap = as_callable(Heatmap(model), best_device())(np.array(example.prepared.image)[None, None])[0, 0]
    found, _ = propose(heatmap, example.prepared, config)
    return OutOfFoldCandidates(example.key, trained_on, found.index_vox, found.centre_mm, found.stage1_score)


def run_cnn_job(job: CnnJob) -> dict[str, np.ndarray]:
    """Stage 2's scores (N,) of the held-out scans' candidates, by scan."""
    mined = load_candidates(job.candidates_dir)
    training, held_out = _divide(job)
    model = fit_cnn(training, mined, job.cnn, job.seed, job.prepared_dir, job.checkpoints, job.unseen)
    network = as_callable(Score(model), best_device())
    scores = {}
    for example in held_out:
        patches = cut_channels(example.prepared, out_of_fold(example, mined).index_vox, job.cnn.patch_vox)
        scores[example.key] = network(patches) if len(patches) else np.zeros(0, dtype=np.float32)
    return scores


def try_unet_job(job: UnetJob) -> list[OutOfFoldCandidates] | None:
    """run_unet_job, or None for settings with which training diverges: for a search that is a finding, not an end."""
    try:
        return run_unet_job(job)
    except Diverged as error:
        log.warning("%s", error)
        return None


def try_cnn_job(job: CnnJob) -> dict[str, np.ndarray] | None:
    """run_cnn_job, or None as try_unet_job."""
    try:
        return run_cnn_job(job)
    except Diverged as error:
        log.warning("%s", error)
        return None


def cnn_sampler(
    examples: list[Example], mined: dict[str, OutOfFoldCandidates], cnn: Cnn, unseen: frozenset[str] = frozenset()
) -> CnnSampler:
    """Stage 2's training examples from out-of-fold candidates; refuses those of a stage 1 that saw the scan, or one of `unseen`."""
    return CnnSampler([label_candidates(e, out_of_fold(e, mined, unseen).index_vox, cnn.match_mm) for e in examples], cnn)


def out_of_fold(
    example: Example, mined: dict[str, OutOfFoldCandidates], unseen: frozenset[str] = frozenset()
) -> OutOfFoldCandidates:
    """A scan's candidates, from a stage 1 that saw neither its subject nor any of `unseen`; InputError otherwise.

    Candidates of a model that knew the scan are too good: stage 2 would learn mimics that production never shows it.
    """
    case, remedy = f"stage 1 behind the candidates of {example.key}", "remove data/candidates and run `dvc repro`"
    if example.key not in mined:
        raise InputError("candidates-missing", case, "mined candidates", "none", remedy)
    keep_apart(case, mined[example.key].trained_on, {example.subject, *unseen}, remedy)
    return mined[example.key]


def fit_unet(examples: list[Example], unet: Unet, seed: int, prepared_dir: Path, checkpoints: Path | None) -> torch.nn.Module:
    """Stage 1 trained from the workspace's initial weights, or on from a killed training's checkpoint."""
    initial = load_initial(prepared_dir, "unet")
    checkpoint = unet_checkpoint(checkpoints, unet, seed, examples, initial)
    return train_unet(UnetSampler(examples, unet), seed, count_step, checkpoint, initial)


def fit_cnn(
    examples: list[Example],
    mined: dict[str, OutOfFoldCandidates],
    cnn: Cnn,
    seed: int,
    prepared_dir: Path,
    checkpoints: Path | None,
    unseen: frozenset[str] = frozenset(),
) -> PatchClassifier:
    """Stage 2 likewise, on out-of-fold candidates; `unseen` as in `out_of_fold`."""
    initial = load_initial(prepared_dir, "cnn")
    checkpoint = cnn_checkpoint(checkpoints, cnn, seed, examples, mined, initial)
    return train_cnn(cnn_sampler(examples, mined, cnn, unseen), seed, count_step, checkpoint, initial)


def unet_checkpoint(
    folder: Path | None, unet: Unet, seed: int, examples: list[Example], initial: Initial | None = None
) -> Checkpoint | None:
    """Where such a training of stage 1 leaves its state; None without a folder."""
    return open_checkpoint(folder, "unet", unet, seed, content(examples), _start(initial)) if folder else None


def cnn_checkpoint(
    folder: Path | None,
    cnn: Cnn,
    seed: int,
    examples: list[Example],
    mined: dict[str, OutOfFoldCandidates],
    initial: Initial | None = None,
) -> Checkpoint | None:
    """Where such a training of stage 2 leaves its state; None without a folder."""
    if folder is None:
        return None
    found = [content(out_of_fold(e, mined).index_vox) for e in examples]
    return open_checkpoint(folder, "cnn", cnn, seed, content(examples), found, _start(initial))


def _start(initial: Initial | None) -> str:
    return initial.sha256 if initial else RANDOM


def fold_of(split: SubjectSplit) -> list[frozenset[str]]:
    """The held-out subjects of each fold, from split.json. Raises InputError for fewer than two folds or an empty one."""
    numbers = split["folds"].values()
    folds = [frozenset(s for s, f in split["folds"].items() if f == n) for n in range(max(numbers, default=-1) + 1)]
    if len(folds) < 2 or not all(folds):
        got = f"folds of {', '.join(str(len(f)) for f in folds) or 'no'} subjects"
        raise InputError(
            "split-incomplete",
            "split.json",
            "at least two folds, each with subjects",
            got,
            "run the split stage again, or add scans",
        )
    return folds


def others(folds: list[frozenset[str]], held_out: int) -> frozenset[str]:
    """The subjects of all folds but one: what a model that is judged on that one may see."""
    return frozenset().union(*(f for n, f in enumerate(folds) if n != held_out))


def inner_split(split: SubjectSplit, outer: int) -> SubjectSplit:
    """What is left of split.json when fold `outer` is held out: the other folds, renumbered, and the subjects to exclude."""
    rest = sorted(set(split["folds"].values()) - {outer})
    folds = {s: rest.index(f) for s, f in split["folds"].items() if f != outer}
    return {**split, "folds": folds, "held_out": sorted(s for s, f in split["folds"].items() if f == outer)}


def save_candidates(folder: Path, mined: OutOfFoldCandidates) -> None:
    """Write one scan's candidates as <key>.npz."""
    with atomic_write(folder / f"{mined.key}.npz") as temporary:
        arrays: dict[str, Any] = {"trained_on": np.array(sorted(mined.trained_on), dtype=np.str_)}
        arrays |= {"index_vox": mined.index_vox, "centre_mm": mined.centre_mm, "stage1_score": mined.stage1_score}
        np.savez_compressed(temporary, **arrays)


def load_candidates(folder: Path) -> dict[str, OutOfFoldCandidates]:
    """Candidates of each scan of a folder, by key."""
    found = {}
    for file in sorted(Path(folder).glob("*.npz")):
        with np.load(file) as arrays:
            trained_on = frozenset(arrays["trained_on"].tolist())
            found[file.stem] = OutOfFoldCandidates(
                file.stem, trained_on, arrays["index_vox"], arrays["centre_mm"], arrays["stage1_score"]
            )
    return found
