"""How many trainings run side by side."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from cmb_models.training.parallel import processes


@pytest.mark.parametrize(("cores", "most", "wanted"), [(2, 5, 3), (2, 1, 1), (16, 5, 5)])
def test_on_the_cpu_one_a_core_and_one_more(monkeypatch, cores, most, wanted):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes(most) == wanted


@pytest.mark.parametrize(("gb", "most", "wanted"), [(80, 50, 16), (80, 5, 5), (8, 50, 2), (3, 50, 1)])
def test_on_cuda_one_a_core_as_far_as_its_memory_goes(monkeypatch, gb, most, wanted):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gb * 10**9))
    assert processes(most) == wanted
