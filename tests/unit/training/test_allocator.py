"""Freed memory stays with a training's process, and other C libraries are no error."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from cmb_models.training.allocator import keep_freed_memory

FAULTS = """
import resource, sys
from cmb_models.training.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not kept")
import numpy as np
def steps(n):
    for _ in range(n):
        [np.ones(2**21) for _ in range(8)]  # 16 MiB each, dropped together as after a step
steps(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(case: str) -> int:
    """Pages mapped anew while arrays are made and dropped, after the first of them."""
    return int(subprocess.run([sys.executable, "-c", FAULTS, case], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_arrays_after_the_first_take_memory_that_was_kept():
    kept, returned = faults("kept"), faults("returned")
    assert kept < returned / 10


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory.__wrapped__() is False  # past the cache, which holds for the whole process
