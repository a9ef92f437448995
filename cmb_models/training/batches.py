"""A training's batches on its device: drawn when asked for on the CPU, ahead of time by other processes for a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cmb_models.training.sampling import CnnSampler, UnetSampler

MOST_HELPERS = 4  # processes that draw for one training; beside an H100 a core took 2.6 times as long to draw as all else took
AHEAD = 4  # batches a helper may be ahead


class Batches:
    """Batches of a sampler for the steps of one training.

    On the CPU training leaves no core idle, and each batch is drawn from `rng` where it is needed. A CUDA device trains faster than
    one core draws: there they are drawn `ahead`, and batch n comes from a generator of its own, of (seed, n), so that any number
    of processes draws the same ones, and a training that goes back or on finds them again.
    """

    def __init__(self, sampler: UnetSampler | CnnSampler, seed: int, device: torch.device, ahead: bool | None = None) -> None:
        self.sampler, self.rng, self.device = sampler, np.random.default_rng(seed), device
        ahead = device.type == "cuda" if ahead is None else ahead
        self._own = Numbered(sampler, seed) if ahead else None
        self._ahead: Iterator[list[torch.Tensor]] | None = None
        self._next = 0

    def at(self, step: int) -> list[torch.Tensor]:
        """The arrays of the sampler's batch for a step, as tensors on the device. Not ahead: the next one, whatever the step."""
        if self._own is None:
            return [torch.from_numpy(a) for a in self.sampler.batch(self.rng)]
        if self._ahead is None or step != self._next:
            self.anew()  # ends those who drew ahead before others begin
            self._ahead = draw_ahead(self._own, step, torch.get_num_threads() - 1, pin=self.device.type == "cuda")
        self._next = step + 1
        return [t.to(self.device, non_blocking=True) for t in next(self._ahead)]

    def anew(self) -> None:
        """Leave what was drawn ahead: the sampler is not the same any more."""
        self._ahead = None


class Numbered(Dataset):
    """A sampler's batches by number, one a step."""

    def __init__(self, sampler: UnetSampler | CnnSampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def __getitem__(self, n: int) -> list[np.ndarray]:
        return list(self.sampler.batch(np.random.default_rng([self.seed, n])))


def draw_ahead(batches: Numbered, first: int, helpers: int, pin: bool) -> Iterator[list[torch.Tensor]]:
    """Batches from number `first` on, in order, drawn by so many processes (0: by this one). pin: into pinned memory.

    The processes are forks: what a sampler holds is not copied, and they never touch the device.
    """
    helpers = max(0, min(helpers, MOST_HELPERS))
    ahead = {"prefetch_factor": AHEAD, "multiprocessing_context": "fork"} if helpers else {}
    numbers = range(first, batches.sampler.settings.steps)
    return iter(DataLoader(batches, batch_size=None, sampler=numbers, num_workers=helpers, pin_memory=pin, **ahead))
