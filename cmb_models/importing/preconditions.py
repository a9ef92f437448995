"""What must hold before anything is imported: the dataset is there as DVC knows it, and the key file is its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cmb_models.dataset.layout import CODE, is_dataset
from cmb_models.errors import InputError
from cmb_models.importing.identity import Key


def require_places(dataset: Path, key_file: Path) -> None:
    """Raise InputError if a file is where a folder must be, or the other way round."""
    for place in (dataset, key_file.parent):
        file = next((p for p in (place, *place.parents) if p.exists()), place)
        if file.is_file():
            raise InputError("folder-taken", place, "a folder", f"the file {file}", "name another folder")
    if key_file.is_dir():
        raise InputError("import-key", key_file, "a file", "a folder", "pass a file in it with --key")


def require_pulled(dataset: Path) -> None:
    """Raise InputError if DVC versions the dataset but its files are not here: another would be begun in its place."""
    record = dataset.with_name(f"{dataset.name}.dvc")
    if record.is_file() and not (dataset.is_dir() and any(dataset.iterdir())):
        raise InputError("data-missing", dataset, f"the dataset of {record.name}", "none", "fetch it with `dvc pull`")


def require_own_key(key: Key, dataset: Path) -> None:
    """Raise InputError if all subject codes of a dataset are of another key: its patients would get a second code."""
    codes = {p.name for p in dataset.glob("sub-*") if p.is_dir() and CODE.fullmatch(p.name)}
    if codes and not codes & set(key.patients):
        got = f"one that knows none of the {len(codes)} in {dataset}"
        remedy = "pass the key file of the earlier imports with --key"
        raise InputError("import-key", key.path, "the key file of the dataset's subject codes", got, remedy)


def require_private(file: Path, dataset: Path, sources: Iterable[Path]) -> None:
    """Raise InputError if a key file would be shared: with a dataset next to this one, a source, or a git repository."""
    place, folder = Path(file).resolve(), dataset.resolve().parent
    shared = [source.resolve() for source in sources]
    if place.is_relative_to(folder) and _is_data(neighbour := folder / place.relative_to(folder).parts[0]):
        shared.append(neighbour)
    shared += [parent for parent in place.parents if (parent / ".git").exists()]
    if found := next((other for other in shared if place.is_relative_to(other)), None):
        expected = "a key file outside datasets, sources and git repositories"
        raise InputError("import-key", file, expected, f"one in {found}", "move it, and pass its place with --key")


def _is_data(folder: Path) -> bool:
    return folder.with_name(f"{folder.name}.dvc").exists() or is_dataset(folder)
