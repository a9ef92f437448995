"""The batches of a training's next steps, drawn by threads while a CUDA device works on the one before.

Drawing took 72 % of a step on an H100 without this (research/findings.md), and two threads draw 1.4 times as many batches as one
(benchmarks/results/training_speed.json). A whole training on a CUDA device has not been measured with it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")

MOST_THREADS = 2  # draw 1.4 to 1.8 times as many as one (benchmarks/training_speed.py); part of drawing holds Python's lock
EACH = 2  # batches that lie ready or are drawn, for each thread


def prefetch_threads(device: torch.device) -> int:
    """How many threads draw ahead: as many as a training has cores on CUDA, up to MOST_THREADS; none where those cores train."""
    return min(MOST_THREADS, torch.get_num_threads()) if device.type == "cuda" else 0


class Prefetcher(Generic[Batch]):
    """Batches by the number of their step; with threads, those of the next steps are drawn meanwhile. With 0, in place.

    draw: from a step's number alone and from what `basis` gives, safe to be called by several threads. basis: an object that is
    replaced by another one, never changed, when what is drawn changes; batches drawn with an earlier one are drawn again. steps:
    of the training; none is drawn beyond. What is handed out is the same with any number of threads.
    """

    def __init__(self, draw: Callable[[int], Batch], steps: int, threads: int, basis: Callable[[], object] = lambda: None) -> None:
        self._draw, self._steps, self._basis = draw, steps, basis
        self._pool = ThreadPoolExecutor(threads, "draws-ahead") if threads else None
        self._ready = threads * EACH
        self._drawn: dict[int, tuple[object, Future[Batch]]] = {}

    def __enter__(self) -> Prefetcher[Batch]:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> Batch:
        """The batch of this step; what drawing it raised is raised here."""
        if self._pool is None:
            return self._draw(step)
        basis, wanted = self._basis(), range(step, max(step + 1, min(step + 1 + self._ready, self._steps)))
        for n, (drawn_from, batch) in list(self._drawn.items()):
            if n not in wanted or drawn_from is not basis:
                batch.cancel()
                del self._drawn[n]
        for n in wanted:
            if n not in self._drawn:
                self._drawn[n] = (basis, self._pool.submit(self._draw, n))
        return self._drawn.pop(step)[1].result()
