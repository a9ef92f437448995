"""The two networks of a release, trained on all training subjects, and their weights on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmb_models.config import Cnn, Unet
from cmb_models.files import read_json, write_json
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.training.checkpoint import save_tensors
from cmb_models.training.examples import Example
from cmb_models.training.folds import Mined, cnn_checkpoint, cnn_sampler, job_seed, unet_checkpoint
from cmb_models.training.loop import train_cnn, train_unet
from cmb_models.training.precision import best_device, describe_compute
from cmb_models.training.progress import progress_bar
from cmb_models.training.sampling import UnetSampler

RECIPE = "recipe.json"


def train_both(
    unet: Unet, cnn: Cnn, examples: list[Example], mined: dict[str, Mined], seed: int, checkpoints: Path | None = None
) -> tuple[nn.Module, nn.Module]:
    """Train stage 1 and stage 2 on every example; stage 2 sees out-of-fold candidates only (by key), as it does in production."""
    with progress_bar() as bar:
        first = bar.add_task("train stage 1 on all scans", total=unet.steps)
        second = bar.add_task("train stage 2 on all candidates", total=cnn.steps)
        checkpoint = unet_checkpoint(checkpoints, unet, job_seed(seed, 1), examples)
        sampler = UnetSampler(examples, unet)
        unet_model = train_unet(sampler, job_seed(seed, 1), lambda step: bar.update(first, completed=step + 1), checkpoint)
        checkpoint = cnn_checkpoint(checkpoints, cnn, job_seed(seed, 2), examples, mined)
        sampler = cnn_sampler(examples, mined, cnn)
        cnn_model = train_cnn(sampler, job_seed(seed, 2), lambda step: bar.update(second, completed=step + 1), checkpoint)
    return unet_model.cpu(), cnn_model.cpu()


def save_weights(
    folder: Path,
    unet: Unet,
    cnn: Cnn,
    unet_model: nn.Module,
    cnn_model: nn.Module,
    examples: Sequence[Example],
    gate: Mapping[str, Any] | None = None,
) -> None:
    """Write unet.pt and cnn.pt (tensors only) and recipe.json: the settings that rebuild the networks around them, and the scans
    they were trained on by name and content, their phase images too, and the precision. recipe.json comes last, it marks a whole
    folder.

    gate: the section of params.yaml as it stood before training, so that a release tells what it was to be judged by.
    """
    for name, model in (("unet.pt", unet_model), ("cnn.pt", cnn_model)):
        save_tensors(folder / name, model.state_dict())
    scans = {e.key: e.sha256 for e in examples}
    phases = {e.key: e.phase_sha256 for e in examples if e.phase_sha256}
    recipe = {"unet": unet.model_dump(), "cnn": cnn.model_dump(), "scans": scans, "compute": describe_compute(best_device())}
    recipe |= {"gate": dict(gate)} if gate is not None else {}
    write_json(folder / RECIPE, recipe | ({"phases": phases} if phases else {}))


def load_weights(folder: Path) -> tuple[Unet, Cnn, nn.Module, nn.Module]:
    """The recipes and both networks in evaluation mode on the CPU."""
    recipe = read_json(folder / RECIPE)
    unet, cnn = Unet.model_validate(recipe["unet"]), Cnn.model_validate(recipe["cnn"])
    models = build_unet(unet.channels, unet.strides), PatchClassifier(cnn.channels, cnn.dropout, 2 if "phases" in recipe else 1)
    for name, model in zip(("unet.pt", "cnn.pt"), models, strict=True):
        model.load_state_dict(torch.load(folder / name, weights_only=True))
    return unet, cnn, models[0].eval(), models[1].eval()
