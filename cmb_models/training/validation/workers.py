"""Several trainings at a time, each in a process of its own, with one progress bar over all: here or on a scheduler's workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch
from rich.progress import Progress

from cmb_models.machine import cores, limit_threads, workers_in_memory
from cmb_models.training.precision import Choice, adopt_precision, best_device, choose_precision
from cmb_models.training.progress import progress_bar
from cmb_models.training.validation.pool import TrainingPool, scheduler_pool
from cmb_models.training.validation.progress_count import report_to

Job = TypeVar("Job")
Result = TypeVar("Result")

TRAINING_GB = 2.0  # of a training process on the CPU: 15 scans take 1.1, 100 memory-mapped ones 2.5 (training_speed.json)
CUDA_GB = 4.0  # of the device a training gets: its context, and a whole scan's activations while it mines; reckoned, not measured


def open_workers(most: int, unet: bool = True) -> TrainingPool:
    """Workers of the scheduler that $CMB_SCHEDULER names, else processes of this machine. Arguments as of Workers.

    Raises InputError as DaskWorkers.
    """
    return scheduler_pool() or Workers(most, unet)


class Workers:
    """A pool of training processes, see `processes`. On a CUDA device they share it.

    unet: whether U-Nets are among the jobs; without, MONAI is not imported beforehand, which takes seconds.
    """

    def __init__(self, most: int, unet: bool = True) -> None:
        # A torch forked after use can deadlock in its thread pools; a fork server imports it once and runs nothing. The first
        # optimiser of a process would import torch._dynamo, two seconds in each.
        context = multiprocessing.get_context("forkserver")
        for_unet = ["monai.networks.nets.dynunet"] if unet else []
        context.set_forkserver_preload(["cmb_models.training.validation.jobs", *for_unet, "torch._dynamo"])
        self.size = processes(most)
        threads = max(1, cores() // self.size)
        device = best_device()
        self._steps = context.Value("l", 0)
        begin = (self._steps, threads, device, choose_precision(device))
        self._pool = ProcessPoolExecutor(self.size, mp_context=context, initializer=_begin, initargs=begin)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job], steps: int, description: str) -> list[Result]:
        """Results of `function(job)` in the order of `jobs`. `steps`: how often all jobs together call `count_step`."""
        self._steps.value = 0
        with progress_bar() as bar, _follow(bar, bar.add_task(description, total=steps), self._steps):
            return list(self._pool.map(function, jobs))


def processes(most: int) -> int:
    """Number of trainings to run in parallel, at most `most`.

    On the CPU one more than there are cores, on CUDA one per core; fewer if host or device memory does not suffice.

    On two CPU cores, two trainings in parallel reach 1.5 times the throughput of one with two threads (15.5 and 10.1 steps/s
    measured, U-Net of 16-128 channels, patch 48x48x24, batch 6). On CUDA drawing patches keeps a core busy or more, and
    one training leaves most of the device idle.
    """
    most = min(most, workers_in_memory(TRAINING_GB))
    if not torch.cuda.is_available():
        return min(most, cores() + 1)
    room_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return min(most, cores(), max(1, int(room_gb / CUDA_GB)))


def _begin(counter: Any, threads: int, device: torch.device, precision: Choice) -> None:
    report_to(lambda: _add(counter))
    # Ctrl-C reaches the workers, too: each would print a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    limit_threads()
    torch.set_num_threads(threads)
    adopt_precision(device, precision)  # all trainings of a stage in the same one


def _add(counter: Any) -> None:
    with counter.get_lock():
        counter.value += 1


class _follow:  # noqa: N801 - used as a function, in `with`
    """Copies the shared count into the bar twice a second until left."""

    def __init__(self, bar: Progress, task: Any, counter: Any) -> None:
        self._bar, self._task, self._counter, self._done = bar, task, counter, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._done.wait(0.5):
            self._bar.update(self._task, completed=self._counter.value)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._bar.update(self._task, completed=self._counter.value)
