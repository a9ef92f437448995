"""Where studies are kept and who may write to one: a SQLite file of the workspace, or a PostgreSQL database of many machines.

One run at a time has a study: what Optuna proposes then depends on finished trials alone, and trials that still count as running
are those of a run that ended. In a file the claim is a lock on it; in PostgreSQL it is an advisory lock, which the database
releases when the connection of the run that holds it ends, however it ends. Another run waits for it, then continues with the
finished trials.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models.errors import InputError
from cmb_models.files import claimed

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

log = logging.getLogger(__name__)

VARIABLE = "CMB_OPTUNA_STORAGE"
STUDIES = Path("studies")
DATABASE = STUDIES / "optuna.db"
BUSY_S = 600  # to wait for programs that read the file: dashboards and copies take seconds
POLL_S = 2.0  # between two attempts to claim a study that another run has
CONNECT_S = 10
# A run whose machine lost power or network loses its claim after IDLE_S + INTERVAL_S * COUNT.
KEEPALIVE = {"tcp_keepalives_idle": 60, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 6}
# File systems whose locks SQLite cannot rely on.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "beegfs", "gpfs", "glusterfs", "ceph", "9p"}
)
LOST = ("closed the connection", "connection refused", "could not connect", "terminating connection", "connection already closed",
        "connection timed out", "connection reset", "shutting down", "starting up")  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """An opened place of studies. url: for Optuna, may hold a password. name: for messages. held: raises if the claim was lost."""

    url: str
    name: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    held: Callable[[], None] = lambda: None

    def open(self) -> optuna.storages.RDBStorage:
        """Optuna's storage, whose tables are created at first use."""
        import optuna

        return optuna.storages.RDBStorage(self.url, engine_kwargs=dict(self.engine))


def sqlite_storage(database: Path = DATABASE) -> Storage:
    """Studies in a file; its folder is created."""
    database.parent.mkdir(parents=True, exist_ok=True)
    return Storage(f"sqlite:///{database}", str(database), {"connect_args": {"timeout": BUSY_S}})


@contextlib.contextmanager
def claimed_storage(study: str) -> Iterator[Storage]:
    """Claim a study where $CMB_OPTUNA_STORAGE keeps it, or all studies of the workspace in DATABASE without that variable.

    Raises:
        InputError: If another process has the file; if the database cannot be reached, its URL is no PostgreSQL URL, or the driver
            is missing; and for faults of the storage while the claim is held.
    """
    url = os.environ.get(VARIABLE)
    if not url:
        with claimed(DATABASE.with_suffix(".lock"), "tune in this workspace"), storage_fault_as_input_error(DATABASE):
            if kind := network_file_system(DATABASE.parent):
                log.warning(
                    "%s lies on %s, whose locks SQLite cannot rely on: keep studies in PostgreSQL ($%s)", STUDIES, kind, VARIABLE
                )
            yield sqlite_storage()
        return
    engine, shown = _engine(url)
    with storage_fault_as_input_error(shown), _connected(engine, shown) as connection:
        with _locked(connection, "cmb-models: tables", "the tables of the studies"):
            Storage(url, shown).open()  # creates them; two runs at a time would both try
        with _locked(connection, study, f"study {study} in {shown}"):
            yield Storage(url, shown, {"pool_pre_ping": True}, lambda: _require_held(connection, shown))


@contextlib.contextmanager
def storage_fault_as_input_error(storage: object) -> Iterator[None]:
    """Make an InputError of a storage that is full, kept locked by another program, or out of reach; other errors pass."""
    import optuna
    import sqlalchemy

    try:
        yield
    # A connection that a worker or a server reset is no fault of the storage: only Optuna's and SQLAlchemy's errors are.
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
        words = f"{error} {error.__cause__}"
        if "database or disk is full" in words or "No space left on device" in words:
            raise InputError(
                "disk-full", storage, "room on the disk", "none left", "free some and run the command again"
            ) from error
        if "database is locked" in words:
            got = f"one that another program has kept locked for {BUSY_S} s"
            remedy = "close what reads it (a dashboard, a copy, a backup) and run the command again: finished trials are kept"
            raise InputError("folder-in-use", storage, "a database that can be written to", got, remedy) from error
        if any(lost in words.lower() for lost in LOST):
            raise _lost(storage, words) from error
        raise


def network_file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Kind of the network file system that a folder lies on; None for others, and where `mounts` cannot be read."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place, best, kind = Path(folder).resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        where = Path(before.split()[4].replace("\\040", " "))
        # Of two mounts at the same place the later one hides the earlier.
        if (place == where or where in place.parents) and len(where.parts) >= best:
            best, kind = len(where.parts), after.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _engine(url: str) -> tuple[sqlalchemy.Engine, str]:
    """An engine for the claim, which keeps one connection, and the URL without password."""
    import sqlalchemy

    expected, remedy = "postgresql+psycopg2://USER@HOST/DATABASE", "correct it, or unset it to keep studies in the workspace"
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise InputError("setting-invalid", f"${VARIABLE}", expected, "no URL", remedy) from error
    shown = parsed.set(query={}).render_as_string(hide_password=True)  # the query may hold a password, too
    if parsed.get_backend_name() != "postgresql":
        raise InputError("setting-invalid", f"${VARIABLE}", expected, shown, remedy)
    try:
        arguments = {"connect_timeout": CONNECT_S}
        return sqlalchemy.create_engine(url, connect_args=arguments, isolation_level="AUTOCOMMIT"), shown
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise InputError("setting-invalid", f"${VARIABLE}", expected, shown, remedy) from error
    except ImportError as error:
        remedy = "run pip install psycopg2-binary"
        raise InputError("package-missing", f"${VARIABLE}", "the driver of PostgreSQL", f"no {error.name}", remedy) from error


@contextlib.contextmanager
def _connected(engine: sqlalchemy.Engine, shown: str) -> Iterator[sqlalchemy.Connection]:
    """A connection whose end the database notices."""
    import sqlalchemy

    try:
        connection = engine.connect()
    except sqlalchemy.exc.DBAPIError as error:
        remedy = "start the database, correct address, user or password, or unset it to keep studies in the workspace"
        got = " ".join(str(error.orig).split())
        raise InputError("database-unreachable", f"${VARIABLE} {shown}", "a PostgreSQL database", got, remedy) from error
    try:
        for name, value in KEEPALIVE.items():
            connection.execute(sqlalchemy.text(f"SET {name} = {value}"))
        yield connection
    finally:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.close()
        engine.dispose()


@contextlib.contextmanager
def _locked(connection: sqlalchemy.Connection, what: str, shown: str) -> Iterator[None]:
    """Hold the advisory lock of `what`; wait for it if another connection has it."""
    import sqlalchemy

    key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], signed=True)
    waiting = False
    while not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
        if not waiting:
            log.warning("%s: another run has it; waiting until it ends", shown)
        waiting = True
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def _require_held(connection: sqlalchemy.Connection, shown: str) -> None:
    """Raise InputError if the connection, and with it the claim, was lost: another run may have the study by now."""
    import sqlalchemy

    try:
        connection.execute(sqlalchemy.text("SELECT 1"))
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _lost(shown, str(error)) from error


def _lost(storage: object, words: str) -> InputError:
    got = " ".join(words.split())[:200]
    return InputError("database-lost", storage, "a database until the end", got, "run the command again: finished trials are kept")
