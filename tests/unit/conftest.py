"""Fixtures that several unit tests share."""

from __future__ import annotations

import pytest

from cmb_models.training import planting


@pytest.fixture
def dark_plants(monkeypatch):
    """Plants nearly as dark as simulated, and sharp, so that a threshold tells them from noise."""
    monkeypatch.setattr(planting, "FAINTEST", 0.75)
    monkeypatch.setattr(planting, "SOFTEST_MM", 0.0)
