"""Training on some subjects and detecting in the others: the unit of work of tuning, mining and cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmb_models.config import Cnn, Decision, Params, PipelineConfig, Unet
from cmb_models.detect.detector import propose
from cmb_models.detect.patches import cut_patches
from cmb_models.errors import InputError
from cmb_models.files import replacing
from cmb_models.networks.cnn import Score
from cmb_models.networks.inference import as_callable
from cmb_models.networks.unet import Heatmap
from cmb_models.training.examples import Example, load_examples
from cmb_models.training.loop import best_device, train_cnn, train_unet
from cmb_models.training.parallel import count_step
from cmb_models.training.sampling import CnnSampler, UnetSampler, label_candidates

UNDECIDED = Decision(slope=1.0, intercept=0.0, threshold=0.0)  # before calibration: scores as they are, nothing cut


@dataclass(frozen=True)
class Mined:
    """Stage 1's candidates in a scan it was not trained on. index_vox: (N, 3) int64 working grid; the rest (N,) and (N, 3)."""

    key: str
    index_vox: np.ndarray
    centre_mm: np.ndarray
    stage1_score: np.ndarray


@dataclass(frozen=True)
class UnetJob:
    """Train stage 1 on all examples of `prepared_dir` whose subject is not in `held_out`, then mine those that are."""

    prepared_dir: Path
    held_out: frozenset[str]
    unet: Unet
    config: PipelineConfig
    seed: int


@dataclass(frozen=True)
class CnnJob:
    """Train stage 2 on the candidates of all subjects not in `held_out`, then score those of the others."""

    prepared_dir: Path
    candidates_dir: Path
    held_out: frozenset[str]
    cnn: Cnn
    seed: int


def pipeline_config(params: Params, cnn: Cnn, decision: Decision = UNDECIDED) -> PipelineConfig:
    """The settings that travel with the networks, from params.yaml and what tuning and calibration added."""
    return PipelineConfig(
        preprocess=params.preprocess, candidates=params.mine_candidates.candidates, patch_vox=cnn.patch_vox, decision=decision
    )


def job_seed(seed: int, *position: int) -> int:
    """A seed of its own for each fold (and trial) of a stage, the same in every run."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1)[0])


def run_unet_job(job: UnetJob) -> list[Mined]:
    """Out-of-fold candidates of the held-out scans."""
    examples = load_examples(job.prepared_dir)
    training = [e for e in examples if e.subject not in job.held_out]
    model = train_unet(UnetSampler(training, job.unet), job.seed, count_step)
    return [mine(e, model, job.config) for e in examples if e.subject in job.held_out]


def mine(example: Example, model: torch.nn.Module, config: PipelineConfig) -> Mined:
    """Stage 1 on one prepared scan, by the same steps as in production."""
    heatmap = as_callable(Heatmap(model), best_device())(np.array(example.prepared.image)[None, None])[0, 0]
    found, _ = propose(heatmap, example.prepared, config)
    return Mined(example.key, found.index_vox, found.centre_mm, found.stage1_score)


def run_cnn_job(job: CnnJob) -> dict[str, np.ndarray]:
    """Stage 2's scores (N,) of the held-out scans' candidates, by scan."""
    mined = {m.key: m for m in load_mined(job.candidates_dir)}
    examples = load_examples(job.prepared_dir)
    training = [e for e in examples if e.subject not in job.held_out]
    model = train_cnn(cnn_sampler(training, mined, job.cnn), job.seed, count_step)
    network = as_callable(Score(model), best_device())
    scores = {}
    for example in (e for e in examples if e.subject in job.held_out):
        patches = cut_patches(example.prepared.image, mined[example.key].index_vox, job.cnn.patch_vox)
        scores[example.key] = network(patches) if len(patches) else np.zeros(0, dtype=np.float32)
    return scores


def cnn_sampler(examples: list[Example], mined: dict[str, Mined], cnn: Cnn) -> CnnSampler:
    """Stage 2's training examples from out-of-fold candidates, never from those of a model that saw the scan."""
    return CnnSampler([label_candidates(e, mined[e.key].index_vox, cnn.match_mm) for e in examples], cnn)


def fold_of(split: dict) -> list[frozenset[str]]:
    """The held-out subjects of each fold, from split.json."""
    folds = [frozenset(s for s, f in split["folds"].items() if f == n) for n in range(max(split["folds"].values()) + 1)]
    if not all(folds):
        raise InputError("split.json", "subjects in every fold", "an empty fold", "run the split stage again with fewer folds")
    return folds


def save_mined(folder: Path, mined: Mined) -> None:
    """Write one scan's candidates as <key>.npz."""
    with replacing(folder / f"{mined.key}.npz") as temporary:
        arrays = {"index_vox": mined.index_vox, "centre_mm": mined.centre_mm, "stage1_score": mined.stage1_score}
        np.savez_compressed(temporary, **arrays)


def load_mined(folder: Path) -> list[Mined]:
    """All scans' candidates of a folder, by key."""
    found = []
    for file in sorted(Path(folder).glob("*.npz")):
        with np.load(file) as arrays:
            found.append(Mined(file.stem, arrays["index_vox"], arrays["centre_mm"], arrays["stage1_score"]))
    return found
