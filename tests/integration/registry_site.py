"""A workspace for the tests of moves: two releases registered, quickly copied for every test."""

from __future__ import annotations

import shutil
from pathlib import Path

from cmb_models.registry.mlflow.store import MODEL, open_registry
from cmb_models.registry.register import register
from tests.integration.registry_workspace import GOOD, begin, retrain

WEAK = GOOD | {"sensitivity": 0.5}  # below the gate


def make_site(folder: Path, n_good: int = 2, weak: bool = True) -> Path:
    """A committed workspace with `n_good` releases that pass the gate, and one more that does not."""
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder)
    for n in range(n_good):
        retrain(folder, GOOD | {"sensitivity": 0.95 - 0.01 * n})
        register(folder)
    if weak:
        retrain(folder, WEAK)
        register(folder)
    return folder


def copy_site(template: Path, folder: Path) -> Path:
    """A copy whose releases' files are its own: MLflow notes absolute places, which are moved with it."""
    shutil.copytree(template, folder, symlinks=True)
    move_places(folder, template)
    return folder


def move_places(folder: Path, old: Path) -> None:
    """Make a copied SQLite store name the artifacts beside it."""
    import sqlite3

    if not (folder / "mlflow.db").is_file():
        return
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in PLACES:
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{old.resolve()}/", f"{folder.resolve()}/")
            )


PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def aliases(folder: Path) -> dict[str, int]:
    with open_registry(folder) as registry:
        return registry.aliases()


def set_alias(folder: Path, alias: str, number: int | None) -> None:
    """What anybody can do in MLflow's pages."""
    with open_registry(folder) as registry:
        if number is None:
            registry.client.delete_registered_model_alias(MODEL, alias)
        else:
            registry.client.set_registered_model_alias(MODEL, alias, str(number))
