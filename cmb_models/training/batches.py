"""The batches of a training, each from a generator of its own: drawn in place, or ahead of their time by processes.

Drawing one takes a core 10 to 20 ms. On a CPU that is a small share of a step; a CUDA device would wait for it half of the time.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Set
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

MOST_HELPERS = 4  # of one training: reckoned to be what an H100 takes from cores half as fast as those that this was tried on
AHEAD = 4  # batches that each helper keeps ready
WORTH_STEPS = 1000  # a training this long pays for its helpers' start, which takes as long as importing all that they use: seconds


class Source(Protocol):
    """Draws batches: UnetSampler, CnnSampler. state(): what a batch depends on besides its generator; restore() goes back to it."""

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def restore(self, state: dict[str, torch.Tensor]) -> None: ...


def helpers(device: torch.device, steps: int) -> int:
    """How many processes draw ahead for one training of so many steps on a device.

    On CUDA as many as it has threads (parallel.py deals them out), which have little else to do there, up to MOST_HELPERS. 0 on a
    CPU, whose cores train, for a training below WORTH_STEPS, and where there is one thread alone.
    """
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    return min(MOST_HELPERS, threads) if device.type == "cuda" and threads > 1 and steps >= WORTH_STEPS else 0


class Batches:
    """Batch n of a training from `seed`, for n from 0 to `steps`; the same whoever draws it and whatever was drawn before.

    changes: numbers of steps before which the source's state changes; nothing is drawn ahead over one, and other changes are
    undone. helpers: processes that draw ahead; 0 to draw in place. pinned: in memory that a CUDA device copies from beside the
    host's work. Within a `with` block; the processes end with it.
    """

    def __init__(
        self, source: Source, seed: int, steps: int, changes: Set[int] = frozenset(), helpers: int = 0, pinned: bool = False
    ) -> None:
        self._source, self._ends = source, sorted({*changes, steps})
        self._order = _Order()
        apart = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": AHEAD} if helpers else {}
        self._loader = DataLoader(
            _Elsewhere(source, seed) if helpers else _Drawn(source, seed),
            sampler=self._order,
            batch_size=None,
            num_workers=helpers,
            pin_memory=pinned,
            worker_init_fn=_not_alone,
            # A generator of its own: the loader would take a number from torch's own, which dropout draws from.
            generator=torch.Generator(),
            **apart,
        )
        self._drawn: Iterator | None = None
        self._next = -1

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exc: object) -> None:
        # torch ends its processes when nobody holds the iterator any more; an exception's traceback may for long. There is no
        # public way to have it done at once.
        if self._loader.num_workers and self._drawn is not None:
            self._drawn._shutdown_workers()
        self._drawn = None

    def of(self, step: int) -> list[torch.Tensor]:
        """The batch of one step: by the source's state as it was at the last of `changes`, or the last step out of order."""
        if step != self._next or step in self._ends:
            self._order.begin(range(step, next(end for end in self._ends if end > step)), self._source.state())
            self._drawn = iter(self._loader)
        self._next = step + 1
        return next(self._drawn)


class _Order:
    """What the loader is to draw next: steps, each with the source's state."""

    def begin(self, steps: range, state: dict[str, torch.Tensor]) -> None:
        self._steps, self._state = steps, state

    def __iter__(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        return ((step, self._state) for step in self._steps)


class _Drawn(Dataset):
    """Batches by step and state."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source, self._seed = source, seed

    def __getitem__(self, what: tuple[int, dict[str, torch.Tensor]]) -> tuple[np.ndarray, ...]:
        step, state = what
        self._source.restore(state)
        return self._source.batch(generator(self._seed, step))


class _Elsewhere(Dataset):
    """The same in another process. The source goes there in shared memory: sent with the process, whose pipe holds 64 KB, it would
    have each one started only when the one before it has imported all that it uses."""

    def __init__(self, source: Source, seed: int) -> None:
        self._sent, self._seed = torch.frombuffer(bytearray(ForkingPickler.dumps(source)), dtype=torch.uint8).share_memory_(), seed
        self._here: _Drawn | None = None

    def __getitem__(self, what: tuple[int, dict[str, torch.Tensor]]) -> tuple[np.ndarray, ...]:
        if self._here is None:
            self._here = _Drawn(pickle.loads(self._sent.numpy()), self._seed)
        return self._here[what]


def _not_alone(_number: int) -> None:
    """End a helper whose training was killed while it started: torch looks for the parent only from then on."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit


def generator(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    """NumPy's generator for one step of a training, another one for each purpose."""
    return np.random.default_rng([seed, step, purpose, 1])  # the last number, since trailing zeros make no difference


def _by_name(array: np.memmap) -> tuple[Any, ...]:
    """A memory-mapped file goes to another process by its name, not with all that is in it; a part of one as it is."""
    if isinstance(array.base, mmap.mmap) and array.mode == "r":
        kind = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape, kind)
    return np.asarray(array).__reduce__()


ForkingPickler.register(np.memmap, _by_name)  # for all that this program sends to processes, which read the same files
