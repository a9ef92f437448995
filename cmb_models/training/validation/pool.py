"""What runs many jobs at a time, whether processes of this machine or a scheduler's workers. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol, Self, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

SCHEDULER = "CMB_SCHEDULER"  # address of a Dask scheduler


class TrainingPool(Protocol):
    """What runs several trainings at a time, and closes when its `with` block is left."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job], steps: int, description: str) -> list[Result]:
        """Results of `function(job)` in the order of `jobs`. `steps`: how often all jobs together call `count_step`."""
        ...


def scheduler_pool() -> TrainingPool | None:
    """Workers of the scheduler that $CMB_SCHEDULER names; None without it. Raises InputError as DaskWorkers."""
    if address := os.environ.get(SCHEDULER):
        from cmb_models.training.validation.scheduler import DaskWorkers  # most sites have no scheduler, and not its package

        return DaskWorkers(address)
    return None


@contextmanager
def scheduler_workers() -> Iterator[TrainingPool | None]:
    """`scheduler_pool`, closed when the context is left."""
    pool = scheduler_pool()
    with pool or nullcontext():
        yield pool
