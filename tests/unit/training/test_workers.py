"""How many trainings run side by side."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from cmb_models import machine
from cmb_models.training.validation.workers import processes


@pytest.fixture
def limits(monkeypatch):
    """Sets the cores and the memory (10^9 bytes) of the machine."""

    def set_to(n_cores: int, gb: float = 1000) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(n_cores)))
        monkeypatch.setattr(machine, "_cpu_quotas", lambda root: [])
        monkeypatch.setattr(machine, "memory_bytes", lambda root: int(gb * 1e9))
        monkeypatch.delenv(machine.VARIABLE, raising=False)

    return set_to


@pytest.mark.parametrize(("n_cores", "most", "expected"), [(2, 5, 3), (2, 1, 1), (16, 5, 5)])
def test_on_the_cpu_one_a_core_and_one_more(monkeypatch, limits, n_cores, most, expected):
    limits(n_cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes(most) == expected


@pytest.mark.parametrize(("gb", "expected"), [(64, 9), (8, 4), (1, 1)])
def test_on_the_cpu_as_far_as_memory_goes(monkeypatch, limits, gb, expected):
    limits(8, gb)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes(50) == expected


@pytest.mark.parametrize(("gb", "most", "expected"), [(80, 50, 16), (80, 5, 5), (8, 50, 2), (3, 50, 1)])
def test_on_cuda_one_a_core_as_far_as_its_memory_goes(monkeypatch, limits, gb, most, expected):
    limits(16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gb * 10**9))
    assert processes(most) == expected
