"""What must hold before anything is imported: the dataset is there as DVC knows it, and the key file is its own."""

from __future__ import annotations

from pathlib import Path

from cmb_models.dataset.layout import CODE
from cmb_models.errors import InputError
from cmb_models.importing.identity import Key


def require_pulled(dataset: Path) -> None:
    """Raise InputError if DVC versions the dataset but its files are not here: another would be begun in its place."""
    record = dataset.with_name(f"{dataset.name}.dvc")
    if record.is_file() and not (dataset.is_dir() and any(dataset.iterdir())):
        raise InputError("dataset-missing", dataset, f"the dataset of {record.name}", "none", "bring it with `dvc pull`")


def require_own_key(key: Key, dataset: Path) -> None:
    """Raise InputError if all subject codes of a dataset are of another key: its patients would get a second code."""
    codes = {p.name for p in dataset.glob("sub-*") if p.is_dir() and CODE.fullmatch(p.name)}
    if codes and not codes & set(key.patients):
        got = f"one that knows none of the {len(codes)} in {dataset}"
        remedy = "pass the key file of the earlier imports with --key"
        raise InputError("import-key", key.path, "the key file of the dataset's subject codes", got, remedy)
