"""Fixtures that several unit tests share."""

from __future__ import annotations

import pytest

from cmb_models.training.synthesis import insertion


@pytest.fixture
def dark_lesion_bank(monkeypatch):
    """Plants nearly as dark as simulated, and sharp, so that a threshold separates them from noise."""
    monkeypatch.setattr(insertion, "FAINTEST", 0.75)
    monkeypatch.setattr(insertion, "SOFTEST_MM", 0.0)


@pytest.fixture
def on_one_core(monkeypatch):
    """Trainings on one thread, on the CPU: what they sum does not depend on how busy the machine is, nor does their speed."""
    import torch  # here, since most unit tests do without

    from cmb_models.training import loop

    monkeypatch.setattr(loop, "best_device", lambda: torch.device("cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
