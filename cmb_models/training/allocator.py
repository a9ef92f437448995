"""Freed memory kept by the process: a training's steps all need the same."""

from __future__ import annotations

import ctypes
import functools

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
KEPT_BYTES = 2**30
LARGEST_BYTES = 2**25  # the highest that glibc takes


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep up to 1 GiB of freed memory for this process; whether it will (False with another C library).

    It would give every larger tensor back to the system and ask for it again at the next step, and each page then is cleared and
    mapped anew: a twentieth of the time of two trainings side by side (`python -m benchmarks.training_speed`), a seventh of one by
    itself. Results stay the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl and macOS have none; Windows has no such handle
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, LARGEST_BYTES))
