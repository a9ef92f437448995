"""The training loop both networks share, readable top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn
from torch.optim import swa_utils

from cmb_models.config.params import Cnn, Unet
from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet, encoder_levels
from cmb_models.training.checkpoint import Checkpoint, TrainingState
from cmb_models.training.data.hard_negatives import mine_hard_negatives
from cmb_models.training.data.samplers import CnnSampler, UnetSampler
from cmb_models.training.initial import Initial, frozen_levels, start_from
from cmb_models.training.losses import centre_loss, microbleed_loss
from cmb_models.training.precision import autocast, best_device
from cmb_models.training.prefetch import Prefetcher, prefetch_threads

log = logging.getLogger(__name__)

Step = Callable[[int], None]
Network = TypeVar("Network", bound=nn.Module)
MAX_GRADIENT = 5.0  # norm; without a limit the first steps, when every voxel is wrong, spoil Adam's scale for hundreds more
SNAPSHOT = 50  # steps; after a diverging one training goes back this far at most, and checkpoints are written here
HALVINGS = 2  # of the learning rate before a diverging training is given up
AVERAGE_LAST = 0.25  # share of the steps whose weights are averaged: steadier than the last step alone (Izmailov 2018)


class Diverged(FloatingPointError):
    """A training whose loss or weights are no numbers any more, whatever the learning rate."""


def train_unet(
    sampler: UnetSampler,
    seed: int,
    step_done: Step | None = None,
    checkpoint: Checkpoint | None = None,
    initial: Initial | None = None,
) -> nn.Sequential:
    """Train stage 1 from a seed and, if given, initial weights; returns the model in float32 on `best_device()`."""
    s: Unet = sampler.settings
    torch.manual_seed(seed)
    model = build_unet(s.channels, s.strides)
    if initial:
        start_from(model, initial, "unet")
    frozen = frozen_levels(encoder_levels(model), s.frozen_levels, initial)
    mining_steps = {round(share * s.steps) for share in s.hard_negatives_at} if s.hard_negative_fraction else set()

    def loss(batch: list[torch.Tensor]) -> torch.Tensor:
        image, target, weight = batch
        logits = model(image.to(memory_format=torch.channels_last_3d))
        return centre_loss(logits, target, weight, s.focal_gamma, s.focal_beta)

    def before(step: int) -> None:
        if step in mining_steps:
            sampler.hard = mine_hard_negatives(model, sampler.examples, generator(seed, step, purpose=1))

    return _fit(model, loss, sampler, seed, step_done, checkpoint, frozen, before)


def train_cnn(
    sampler: CnnSampler,
    seed: int,
    step_done: Step | None = None,
    checkpoint: Checkpoint | None = None,
    initial: Initial | None = None,
) -> PatchClassifier:
    """Train stage 2 from a seed and, if given, initial weights; returns the model in float32 on `best_device()`."""
    s: Cnn = sampler.settings
    torch.manual_seed(seed)
    model = PatchClassifier(s.channels, s.dropout, sampler.channels)
    if initial:
        start_from(model, initial, "cnn")
    frozen = frozen_levels(model.levels(), s.frozen_levels, initial)

    def loss(batch: list[torch.Tensor]) -> torch.Tensor:
        patches, kinds = batch
        logits, of_kinds = model.with_kinds(patches.to(memory_format=torch.channels_last_3d))
        return microbleed_loss(logits, of_kinds, kinds, s.kind_weight)

    return _fit(model, loss, sampler, seed, step_done, checkpoint, frozen)


def generator(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    """A NumPy generator for one optimizer step and purpose, independent of earlier draws."""
    return np.random.default_rng([seed, step, purpose, 1])  # the last number, since trailing zeros make no difference


def draw_batches(sampler: UnetSampler | CnnSampler, seed: int, steps: int, threads: int) -> Prefetcher[tuple[np.ndarray, ...]]:
    """The batches of a training, drawn ahead by this many threads."""
    return Prefetcher(lambda step: sampler.batch(generator(seed, step)), steps, threads, sampler.basis)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A batch's array on the device; to CUDA from pinned memory, so that the copy overlaps with the host's work."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _fit(
    model: Network,
    loss: Callable[[list[torch.Tensor]], torch.Tensor],
    sampler: UnetSampler | CnnSampler,
    seed: int,
    step_done: Step | None,
    checkpoint: Checkpoint | None,
    frozen: Sequence[nn.Module],
    before: Step | None = None,
) -> Network:
    """AdamW with a warm-up and cosine decay in the precision of precision.py, then the mean of the last quarter's weights.

    loss: of a batch on the device. frozen: modules that keep their weights and normalisation statistics. before: called with the
    number of each step before it. With a checkpoint a killed training continues from its last state to the same weights as one
    that was not killed (on the CPU with the same number of threads; CUDA sums in no fixed order).
    Raises Diverged when loss, gradient or weights are no numbers at a quarter of the learning rate either.
    """
    s: Unet | Cnn = sampler.settings
    device = best_device()
    # torch's stubs have no `memory_format` for modules.
    model.to(device, memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=s.learning_rate, weight_decay=s.weight_decay)
    # One tensor after the other: torch's way for all at once, its default on CUDA alone, refuses batch normalisation's counters.
    average = swa_utils.AveragedModel(model, avg_fn=swa_utils.get_swa_avg_fn(), use_buffers=True)
    state = TrainingState(model, optimizer, average, sampler, frozen=frozen)
    _resume(state, checkpoint, step_done)
    with draw_batches(sampler, seed, s.steps, prefetch_threads(device)) as batches:

        def loss_of(step: int) -> torch.Tensor:
            return loss([to_device(part, device) for part in batches.take(step)])

        _take_steps(state, loss_of, step_done, checkpoint, before)
    # A copy of the model.
    return cast(Network, state.average.module.eval())


def _take_steps(
    state: TrainingState,
    loss_of: Callable[[int], torch.Tensor],
    step_done: Step | None,
    checkpoint: Checkpoint | None,
    before: Step | None,
) -> None:
    """All remaining steps, see `_fit`. loss_of: the loss of a step's batch, by its number."""
    s: Unet | Cnn = state.sampler.settings
    safe = state.capture()
    while state.step < s.steps:
        if state.step % SNAPSHOT == 0 and state.is_finite():
            safe = state.capture()
            if checkpoint:
                checkpoint.save_if_due(safe)
        for group in state.optimizer.param_groups:
            group["lr"] = s.learning_rate * state.rate * _learning_rate_factor(state.step, s.steps)
        if before:
            before(state.step)
        for module in state.frozen:
            # At each step, since mining leaves the whole model in training mode.
            module.eval()
        value, norm = _gradient(state, loss_of)
        if not torch.isfinite(value + norm):
            _step_back(state, safe, value.item())
            continue
        state.optimizer.step()
        if state.step >= (1 - AVERAGE_LAST) * s.steps:
            state.average.update_parameters(state.model)
        if state.step % 100 == 0:
            log.info("step %d of %d: loss %.4f", state.step, s.steps, value.item())
        if step_done:
            step_done(state.step)
        state.step += 1
        if state.step == s.steps and not state.is_finite():
            _step_back(state, safe, math.nan)
    if checkpoint:
        checkpoint.save(state.capture())  # finished trainings too: a stage killed in a later one does not begin again


def _resume(state: TrainingState, checkpoint: Checkpoint | None, step_done: Step | None) -> None:
    """Resume from the checkpoint, if it has a state; step_done is called for the steps that are already done."""
    saved = checkpoint.load() if checkpoint else None
    if checkpoint is None or saved is None:
        return
    state.restore(saved)
    log.info("resuming from step %d of %s", state.step, checkpoint.path)
    if step_done:
        for step in range(state.step):
            step_done(step)


def _gradient(state: TrainingState, loss_of: Callable[[int], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The next batch's loss and the norm of its gradient, which is left, limited, in the model."""
    device = next(state.model.parameters()).device
    with autocast(device):  # bfloat16 has float32's range, so no loss scaling
        value = loss_of(state.step)
    state.optimizer.zero_grad(set_to_none=True)
    value.backward()
    return value.detach(), nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT)


def _step_back(state: TrainingState, safe: dict, value: float) -> None:
    """Back to the last sound state with half the learning rate; Diverged when that was done HALVINGS times already."""
    if state.rate <= 0.5**HALVINGS:
        tried = f"({state.sampler.settings.learning_rate:g}; {HALVINGS} times halved it did so again)"
        raise Diverged(
            f"training loss became {value} at step {state.step}: lower the learning rate {tried}, or look for broken scans"
        )
    log.warning("training loss became %s at step %d: back to step %d, learning rate halved", value, state.step, safe["step"])
    rate = state.rate / 2
    state.restore(safe)
    state.rate = rate


def _learning_rate_factor(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
