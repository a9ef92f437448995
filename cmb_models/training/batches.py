"""The batches of a training, each from a generator of its own: drawn in place, or ahead of their time by processes.

Drawing one takes a core 10 to 20 ms. On a CPU that is a small share of a step; a CUDA device would wait for it half of the time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

MOST_HELPERS = 4  # of one training: reckoned to be what an H100 takes from cores half as fast as those that this was tried on
AHEAD = 4  # batches that each helper keeps ready


class Sampler(Protocol):
    """Draws batches: UnetSampler, CnnSampler. state(): what a batch depends on besides its generator; restore() goes back to it."""

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def restore(self, state: dict[str, torch.Tensor]) -> None: ...


def helpers(device: torch.device) -> int:
    """How many processes draw ahead for one training on a device: as many as it has threads (parallel.py deals them out), which
    on CUDA have little else to do. 0 on a CPU, whose cores train, and where there is one thread alone."""
    threads = torch.get_num_threads()
    return min(MOST_HELPERS, threads) if device.type == "cuda" and threads > 1 else 0


class Batches:
    """Batch n of a training from `seed`, for n from 0 to `steps`; the same whoever draws it and whatever was drawn before.

    changes: numbers of steps before which the sampler's state changes; nothing is drawn ahead over one. helpers: processes that
    draw ahead; 0 to draw in place. pinned: in memory that a CUDA device copies from beside the host's work.
    Within a `with` block; the processes end with it.
    """

    def __init__(
        self, sampler: Sampler, seed: int, steps: int, changes: set[int] = frozenset(), helpers: int = 0, pinned: bool = False
    ) -> None:
        self._sampler, self._ends = sampler, sorted({*changes, steps})
        self._order = _Order()
        apart = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": AHEAD} if helpers else {}
        # A generator of its own: the loader would take a number from torch's own, which dropout draws from.
        self._loader = DataLoader(
            _Drawn(sampler, seed),
            sampler=self._order,
            batch_size=None,
            num_workers=helpers,
            pin_memory=pinned,
            generator=torch.Generator(),
            **apart,
        )
        self._drawn: Iterator | None = None
        self._next = -1

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exc: object) -> None:
        self._drawn = self._loader = None

    def of(self, step: int) -> list[torch.Tensor]:
        """The batch of one step, by the sampler's state as it is now, or was when it was drawn ahead."""
        if step != self._next or step in self._ends:
            self._order.begin(range(step, next(end for end in self._ends if end > step)), self._sampler.state())
            self._drawn = iter(self._loader)
        self._next = step + 1
        return next(self._drawn)


class _Order:
    """What the loader is to draw next: steps, each with the sampler's state."""

    def begin(self, steps: range, state: dict[str, torch.Tensor]) -> None:
        self._steps, self._state = steps, state

    def __iter__(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        return ((step, self._state) for step in self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class _Drawn(Dataset):
    """Batches by step and state."""

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self._sampler, self._seed = sampler, seed

    def __getitem__(self, what: tuple[int, dict[str, torch.Tensor]]) -> tuple[np.ndarray, ...]:
        step, state = what
        self._sampler.restore(state)
        return self._sampler.batch(generator(self._seed, step))


def generator(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    """NumPy's generator for one step of a training, another one for each purpose."""
    return np.random.default_rng([seed, step, purpose, 1])  # the last number, since trailing zeros make no difference


def _by_name(array: np.memmap) -> tuple[Any, ...]:
    """A memory-mapped file goes to another process by its name, not with all that is in it; a part of one as it is."""
    if isinstance(array.base, mmap.mmap) and array.mode == "r":
        kind = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape, kind)
    return np.asarray(array).__reduce__()


ForkingPickler.register(np.memmap, _by_name)
