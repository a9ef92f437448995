"""The few rows that releases and their aliases are, read and written in MLflow's own SQLite file without importing mlflow.

Importing mlflow takes about two seconds, more than a rollback may last. What is not as expected here (no file, other tables or
columns) raises TablesError, and the caller asks MLflow instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

DELETED = "Deleted_Internal"  # the stage that MLflow gives a version which somebody deleted; its row stays
BUSY_S = 30  # how long another process may hold the file


class TablesError(Exception):
    """The file is not one whose tables are known here."""


class Version(NamedTuple):
    """One model version, as its rows tell."""

    number: int
    run_id: str
    tags: dict[str, str]


class Tables:
    """The rows of one registered model in an SQLite file that MLflow made."""

    def __init__(self, file: Path, model: str) -> None:
        self._file, self._model = Path(file), model

    def aliases(self) -> dict[str, int]:
        """Release numbers by alias."""
        with self._open() as database:
            return self._aliases(database)

    def versions(self) -> list[Version]:
        """All versions that were not deleted, oldest first."""
        with self._open() as database:
            tags: dict[int, dict[str, str]] = {}
            query = "SELECT version, key, value FROM model_version_tags WHERE workspace = 'default' AND name = ?"
            for number, key, value in database.execute(query, (self._model,)):
                tags.setdefault(number, {})[key] = value
            query = (
                "SELECT version, run_id FROM model_versions WHERE workspace = 'default' AND name = ? AND current_stage != ?"
                " ORDER BY version"
            )
            return [Version(n, run or "", tags.get(n, {})) for n, run in database.execute(query, (self._model, DELETED))]

    def tag(self, key: str) -> str:
        """A tag of the registered model itself; "" without."""
        query = "SELECT value FROM registered_model_tags WHERE workspace = 'default' AND name = ? AND key = ?"
        with self._open() as database:
            row = database.execute(query, (self._model, key)).fetchone()
        return row[0] if row else ""

    def move(self, goal: Mapping[str, int | None], tags: Mapping[str, str]) -> None:
        """Set each alias of `goal` (None: remove it) and each tag of the registered model, all of them or none."""
        with self._open(write=True) as database:
            for alias, number in goal.items():
                database.execute(
                    "DELETE FROM registered_model_aliases WHERE workspace = 'default' AND name = ? AND alias = ?",
                    (self._model, alias),
                )
                if number is not None:
                    database.execute(
                        "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES ('default', ?, ?, ?)",
                        (self._model, alias, number),
                    )
            for key, value in tags.items():
                database.execute(
                    "INSERT OR REPLACE INTO registered_model_tags (workspace, name, key, value) VALUES ('default', ?, ?, ?)",
                    (self._model, key, value),
                )
            database.commit()

    def _aliases(self, database: sqlite3.Connection) -> dict[str, int]:
        query = "SELECT alias, version FROM registered_model_aliases WHERE workspace = 'default' AND name = ?"
        return {alias: int(number) for alias, number in database.execute(query, (self._model,))}

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            uri = f"{self._file.absolute().as_uri()}?mode={'rw' if write else 'ro'}"  # neither creates the file
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as database:
                database.execute("PRAGMA foreign_keys = ON")
                if write:
                    database.execute("BEGIN IMMEDIATE")
                yield database
        except sqlite3.Error as error:
            raise TablesError(f"{self._file}: {error}") from error
