"""The committed JSON files that figures in documents come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmb_models.files import read_json

ROOT = Path(__file__).resolve().parents[2]


def load(path: str) -> Any:
    """A committed JSON file, by its path from the root of the repository."""
    return read_json(ROOT / path)
