"""What must hold before anything is imported: the dataset is there as DVC knows it, and the key file is its own."""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError


def require_pulled(dataset: Path) -> None:
    """Raise InputError if DVC versions the dataset but its files are not here: another would be begun in its place."""
    record = dataset.with_name(f"{dataset.name}.dvc")
    if record.is_file() and not (dataset.is_dir() and any(dataset.iterdir())):
        raise InputError("dataset-missing", dataset, f"the dataset of {record.name}", "none", "bring it with `dvc pull`")
