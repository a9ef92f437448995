"""The two networks of a release, trained on all training subjects, and their weights on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cmb_models.config.params import Cnn, Unet
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.files import read_json, write_json
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.training.checkpoint import save_tensors
from cmb_models.training.data.examples import Example, load_training
from cmb_models.training.precision import best_device, describe_compute
from cmb_models.training.validation.jobs import fit_cnn, fit_unet, job_seed, load_candidates
from cmb_models.training.validation.workers import open_workers

RECIPE = "recipe.json"


@dataclass(frozen=True)
class FinalJob:
    """Train the candidate network or the classifier on every training subject.

    Attributes:
        prepared_dir: Prepared scans.
        candidates_dir: Out-of-fold candidates, which the classifier is trained on.
        split: The content of split.json.
        settings: Of the network to train; their type selects the network.
        seed: Of this training.
        checkpoints: Folder where a killed training leaves its state; None for one too short to be worth it.
    """

    prepared_dir: Path
    candidates_dir: Path
    split: SubjectSplit
    settings: Unet | Cnn
    seed: int
    checkpoints: Path | None = None


def run_final_job(job: FinalJob) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The trained network's state dict, and the hardware that trained it (precision.describe_compute).

    As arrays: torch would send tensors as handles that end with the worker.
    """
    examples = load_training(job.prepared_dir, job.split)
    model: nn.Module
    if isinstance(job.settings, Unet):
        model = fit_unet(examples, job.settings, job.seed, job.prepared_dir, job.checkpoints)
    else:
        mined = load_candidates(job.candidates_dir)
        model = fit_cnn(examples, mined, job.settings, job.seed, job.prepared_dir, job.checkpoints)
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}, describe_compute(best_device())


def train_both(
    unet: Unet, cnn: Cnn, prepared_dir: Path, candidates_dir: Path, split: SubjectSplit, seed: int, checkpoints: Path | None = None
) -> tuple[nn.Module, nn.Module, dict[str, str]]:
    """Train both networks on every training subject, side by side.

    The classifier sees out-of-fold candidates only, as it does in production, so neither training waits for the other. One after
    the other with two threads each they take a third longer on two cores: a step gains little from a second thread.

    Returns:
        The candidate network and the classifier, on the CPU, and the hardware that trained them; of two different machines both, as
        "AVX2, AVX512".
    """
    with_phase = all(e.prepared.phase is not None for e in load_training(prepared_dir, split))
    jobs = [
        FinalJob(prepared_dir, candidates_dir, split, settings, job_seed(seed, number), checkpoints)
        for number, settings in ((1, unet), (2, cnn))
    ]
    with open_workers(len(jobs)) as workers:
        trained = workers.map(run_final_job, jobs, unet.steps + cnn.steps, "both networks on all scans")
    models = _build(unet, cnn, with_phase)
    for model, (state, _) in zip(models, trained, strict=True):
        model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    described = [compute for _, compute in trained]
    return *models, {key: ", ".join(sorted({compute[key] for compute in described})) for key in described[0]}


def save_weights(
    folder: Path,
    unet: Unet,
    cnn: Cnn,
    unet_model: nn.Module,
    cnn_model: nn.Module,
    examples: Sequence[Example],
    gate: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | None = None,
    compute: Mapping[str, str] | None = None,
) -> None:
    """Write unet.pt and cnn.pt (tensors only) and recipe.json.

    recipe.json holds the settings needed to rebuild the networks, the training scans by name and hash (with their phase images),
    and the precision. It is written last and marks a complete folder.

    gate: the section of params.yaml as it stood before training, so that a release states the criteria of its time. initial:
    where the weights at the start of the training came from (initial.initial_source). compute: the hardware that trained, as
    `train_both` returns it; None for this machine.
    """
    for name, model in (("unet.pt", unet_model), ("cnn.pt", cnn_model)):
        save_tensors(folder / name, model.state_dict())
    scans = {e.key: e.sha256 for e in examples}
    phases = {e.key: e.phase_sha256 for e in examples if e.phase_sha256}
    recipe = {
        "unet": unet.model_dump(),
        "cnn": cnn.model_dump(),
        "scans": scans,
        "compute": dict(compute or describe_compute(best_device())),
    }
    recipe |= {"gate": dict(gate)} if gate is not None else {}
    recipe |= {"initial": dict(initial)} if initial is not None else {}
    write_json(folder / RECIPE, recipe | ({"phases": phases} if phases else {}))


def load_weights(folder: Path) -> tuple[Unet, Cnn, nn.Module, nn.Module]:
    """The recipes and both networks in evaluation mode on the CPU."""
    recipe = read_json(folder / RECIPE)
    unet, cnn = Unet.model_validate(recipe["unet"]), Cnn.model_validate(recipe["cnn"])
    models = _build(unet, cnn, "phases" in recipe)
    for name, model in zip(("unet.pt", "cnn.pt"), models, strict=True):
        model.load_state_dict(torch.load(folder / name, weights_only=True))
    return unet, cnn, models[0].eval(), models[1].eval()


def _build(unet: Unet, cnn: Cnn, with_phase: bool) -> tuple[nn.Module, nn.Module]:
    """Both networks, untrained."""
    return build_unet(unet.channels, unet.strides), PatchClassifier(cnn.channels, cnn.dropout, 2 if with_phase else 1)
