"""Where the files that Triton loads lie: in the wheel inside the package, in a checkout next to it."""

from __future__ import annotations

from pathlib import Path

from cmb_models.files import shipped


def serving_files() -> Path:
    """The folder with `model_repository/` and `backends/`."""
    return shipped("serving/files", "serving")
