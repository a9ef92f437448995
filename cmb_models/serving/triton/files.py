"""Where the files that Triton loads lie: in the wheel inside the package, in a checkout next to it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def serving_files() -> Path:
    """The folder with `model_repository/` and `backends/`."""
    packaged = PACKAGE / "serving/files"
    return packaged if packaged.is_dir() else PACKAGE.parent / "serving"
