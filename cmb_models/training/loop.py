"""The training loop both networks share, readable top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cmb_models.config import Cnn, Unet
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.training.losses import centre_loss
from cmb_models.training.sampling import CnnSampler, UnetSampler

log = logging.getLogger(__name__)

Step = Callable[[int], None]
MAX_GRADIENT = 5.0  # norm; without a limit the first steps, when every voxel is wrong, spoil Adam's scale for hundreds more
AVERAGE_LAST = 0.25  # share of the steps whose weights are averaged: steadier than the last step alone (Izmailov 2018)


def best_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_unet(sampler: UnetSampler, seed: int, step_done: Step | None = None) -> nn.Module:
    """Train stage 1 from a seed; returns the model in float32 on `best_device()`."""
    s: Unet = sampler.settings
    torch.manual_seed(seed)
    model = build_unet(s.channels, s.strides)
    rng = np.random.default_rng(seed)

    def loss(device: torch.device) -> torch.Tensor:
        image, target, weight = (torch.from_numpy(a).to(device) for a in sampler.batch(rng))
        logits = model(image.to(memory_format=torch.channels_last_3d))
        return centre_loss(logits, target, weight, s.focal_gamma, s.focal_beta)

    return _fit(model, loss, s, step_done)


def train_cnn(sampler: CnnSampler, seed: int, step_done: Step | None = None) -> nn.Module:
    """Train stage 2 from a seed; returns the model in float32 on `best_device()`."""
    s: Cnn = sampler.settings
    torch.manual_seed(seed)
    model = PatchClassifier(s.channels, s.dropout)
    rng = np.random.default_rng(seed)

    def loss(device: torch.device) -> torch.Tensor:
        patches, labels = (torch.from_numpy(a).to(device) for a in sampler.batch(rng))
        logits = model(patches.to(memory_format=torch.channels_last_3d))
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)

    return _fit(model, loss, s, step_done)


def _fit(model: nn.Module, loss: Callable[[torch.device], torch.Tensor], s: Unet | Cnn, step_done: Step | None) -> nn.Module:
    """AdamW with a warm-up and cosine decay, bfloat16 autocast, then the mean of the last quarter's weights."""
    device = best_device()
    model.to(device, memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _learning_rate_factor(n, s.steps))
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for step in range(s.steps):
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(device)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"training loss became {value.item()} at step {step}: lower the learning rate ({s.learning_rate:g})"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
        if step >= (1 - AVERAGE_LAST) * s.steps:
            average.update_parameters(model)
        if step % 100 == 0:
            log.info("step %d of %d: loss %.4f", step, s.steps, value.item())
        if step_done:
            step_done(step)
    return average.module.eval()


def _learning_rate_factor(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
