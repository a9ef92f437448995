"""The folder of the files that Triton loads: inside the package in a wheel, next to it in a checkout."""

from __future__ import annotations

from pathlib import Path

from cmb_models.files import shipped


def serving_files() -> Path:
    """The folder with `model_repository/` and `backends/`."""
    return shipped("serving/files", "serving")
