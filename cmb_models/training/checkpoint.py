"""The state of a training, in memory to step back to and on disk for a killed run to continue from, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cmb_models.errors import InputError
from cmb_models.files import atomic_write, claimed
from cmb_models.training.identity import digest
from cmb_models.training.precision import best_device, choose_precision
from cmb_models.workspace.code_lock import library_hash

log = logging.getLogger(__name__)

# What a training's result depends on.
TRAINING_CODE = ("cmb_models.training.loop",)
EVERY_S = 20.0  # a kill costs no more than this; writing the 2 MB of the default U-Net's state takes 30 ms, so under 1 %


@dataclass
class TrainingState:
    """All that the next step depends on, besides the training's seed.

    sampler: with settings, state() and restore(). rate: factor on the learning rate, halved each time the training diverges.
    frozen: modules of the model that keep their weights and normalisation statistics.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: torch.optim.swa_utils.AveragedModel
    sampler: Any
    step: int = 0
    rate: float = 1.0
    frozen: Sequence[nn.Module] = ()

    def capture(self) -> dict[str, Any]:
        """A copy that later steps do not change."""
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "average": self.average,
        }
        random = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        tensors = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        return {**tensors, "sampler": self.sampler.state(), "random": random, "step": self.step, "rate": self.rate}

    def restore(self, captured: dict[str, Any]) -> None:
        """Restore a captured state, earlier or later. A copy is taken, so that it can be restored again."""
        self.model.load_state_dict(captured["model"])
        self.optimizer.load_state_dict(copy.deepcopy(captured["optimizer"]))
        self.average.load_state_dict(captured["average"])
        self.sampler.restore(captured["sampler"])
        torch.set_rng_state(captured["random"]["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(captured["random"]["cuda"])
        self.step, self.rate = captured["step"], captured["rate"]

    def is_finite(self) -> bool:
        """Whether every weight, and every averaged weight, is a number."""
        weights = [*self.model.parameters(), *self.average.parameters()]
        return bool(torch.stack([torch.isfinite(w).all() for w in weights]).all())


@dataclass
class Checkpoint:
    """One training's file. Its name is a hash of all the training depends on, so that no other one can pick it up."""

    path: Path
    every_s: float = EVERY_S
    _saved: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any] | None:
        """The state saved last; None if there is none, or none that can be read."""
        if not self.path.is_file():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in any way, and starting again is right after each
            log.warning("%s cannot be read and is left aside: %s", self.path, error)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write a state, atomically. A full disk is a warning: the training itself needs none of it."""
        try:
            save_tensors(self.path, state)
        except InputError as error:
            log.warning("training continues without a checkpoint: %s", error)
        self._saved = time.monotonic()

    def save_if_due(self, state: dict[str, Any]) -> None:
        """Write a state unless one was written less than `every_s` ago."""
        if time.monotonic() - self._saved >= self.every_s:
            self.save(state)


def open_checkpoint(folder: Path, kind: str, *depends_on: object) -> Checkpoint:
    """The checkpoint of the training that `depends_on` describes: settings, seed, data.

    Code, torch, the kind of device and the precision count too: with another of them the same seed gives other weights.
    """
    device = best_device()
    machine = (torch.__version__, np.__version__, device.type, choose_precision(device).precision)
    return Checkpoint(Path(folder) / f"{kind}-{digest(kind, depends_on, machine, library_hash(*TRAINING_CODE))}.pt")


@contextlib.contextmanager
def checkpoint_directory(folder: Path) -> Iterator[Path]:
    """A folder for the checkpoints of one stage: they outlive a stage that fails or is killed, and go when it is done.

    Finished trainings are among them, so that a stage killed in its third one does not begin again with the first.

    Raises InputError if another process runs the same stage, whose checkpoints would be removed when this one is done.
    """
    with claimed(folder.with_name(f"{folder.name}.lock"), f"run {folder.name}"):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def save_tensors(path: Path, what: Any) -> None:
    """torch.save, atomically; by way of memory, since torch reports a full disk as a RuntimeError."""
    buffer = io.BytesIO()
    torch.save(what, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
