"""A process that ends itself by SIGKILL at the n-th step of a command, for the tests of what is left then.

A step is anything by which a killed process could leave something else in the workspace: a file opened for writing, renamed or
removed, a folder made or removed, and the begin and the commit of each transaction in an SQLite file. (Syncing and rights change
nothing that a killed process leaves; what SQLite wrote within a transaction, it forgets.) Nothing of the library is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from cmb_models.registry import register as registering
from cmb_models.registry.history.audit import RESUME, audit
from cmb_models.registry.history.state import registry_state
from cmb_models.registry.mlflow.store import open_registry
from cmb_models.registry.promote import challenge, promote, resume, rollback
from cmb_models.release.bundle import verify_manifest
from tests.support.steps import dies_at

PRELOAD = ["mlflow", "mlflow.pyfunc", "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store",
           "tests.integration.registry_crash"]  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOVES = {  # where an action begins and where it ends
    "promote": ({"production": 1}, {"production": 2, "previous": 1}),
    "challenge": ({"production": 1}, {"production": 1, "challenger": 2}),
    "rollback": ({"production": 2, "previous": 1}, {"production": 1, "previous": 2}),
}
STATEMENTS = ("INSERT", "UPDATE", "DELETE", "REPLACE")

# start() asks every process of the interpreter whether it has ended; the exit code comes through a pipe, once, so that of two
# threads that ask at a time one would read 255 at its end (13 of 3,000).
_ASKING = threading.Lock()


def scratch(folder: Path) -> Path:
    """Where an action on this folder keeps its temporary files, which a killed one cannot remove. What changes there is no step."""
    return folder.with_name(f"scratch-{folder.name}")


def run_and_die(action: str, folder: Path, step: int) -> bool:
    """Run an action in a process of its own that is killed when it comes to `step` (from 1); False when it ended before that."""
    scratch(folder).mkdir()
    code = _run(_child, action, str(folder), step)
    assert code in (0, -signal.SIGKILL), f"{action} ended with {code} before step {step}"
    return code != 0


def require_mended(action: str, folder: Path, step: int) -> None:
    """Look, in a process of its own, at what a killed action left: AssertionError naming the step."""
    assert _run(_mended, action, str(folder)) == 0, f"{action}, killed at step {step}, left what is reported above"


def _run(target: Callable, *arguments) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=target, args=arguments)
    with _ASKING:
        process.start()
    wait([process.sentinel], 120)
    with _ASKING:
        process.join(0)
        return process.exitcode


def _mended(action: str, folder: str) -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    (_registered_once if action == "register" else _moved_or_not)(action, Path(folder))


def _moved_or_not(action: str, folder: Path) -> None:
    """The move is in the log or it is not; aliases agree or `resume` makes them; what runs is whole; the command can be run."""
    before, after = MOVES[action]
    logged = registry_state(folder).aliases
    assert logged in (before, after), logged
    report = audit(folder)
    assert all(RESUME in fault for fault in report.faults), report.faults
    resume(folder)
    report = audit(folder)
    assert report.faults == report.notes == (), report
    with open_registry(folder) as registry:
        assert registry.aliases() == logged
        verify_manifest(registry.fetch(registry.resolve("production")).bundle_dir)
    if logged == before:
        _action(action)(folder)
    assert registry_state(folder).aliases == after
    assert audit(folder).faults == ()


def _registered_once(action: str, folder: Path) -> None:
    """There is no fourth release, or a whole one; registering again gives the fourth, and no fifth."""
    with open_registry(folder) as registry:
        there = [r.number for r in registry.releases()]
        assert there in ([1, 2, 3], [1, 2, 3, 4]), there
        for release in registry.releases():
            verify_manifest(registry.fetch(release).bundle_dir)
    done = _register(folder)
    assert (done.release, done.is_new) == (4, len(there) == 3), done
    with open_registry(folder) as registry:
        tags = registry.resolve("4").tags
    assert {"manifest_sha256", "git_commit", "sensitivity", "data_sha256"} <= set(tags)
    assert audit(folder).faults == ()


def _child(action: str, folder: str, step: int) -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    tempfile.tempdir = str(scratch(Path(folder)))
    _count_steps(os.path.realpath(folder), step)
    _action(action)(Path(folder))
    os._exit(0)


def _action(name: str) -> Callable[[Path], object]:
    return {
        "register": _register,
        "promote": lambda folder: promote("2", "better", folder),
        "challenge": lambda folder: challenge("2", "better", folder),
        "rollback": lambda folder: rollback("too many false alarms", folder),
    }[name]


def _register(folder: Path) -> registering.Registration:
    """`cmb release register` after its questions to DVC, which change nothing and take seconds."""
    registering.start_dvc_status = lambda workspace: None
    registering.require_up_to_date = lambda workspace, status: None
    return registering.register(folder)


def _count_steps(folder: str, last: int) -> None:
    step = dies_at(last)

    def inside(path) -> bool:
        named = isinstance(path, str | bytes | os.PathLike) and os.path.isabs(path)
        return named and os.path.realpath(os.fsdecode(path)).startswith(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and inside(arguments[0]) and (arguments[2] or 0) & WRITES:
            step(f"open {arguments[0]}")
        elif event in CHANGES and inside(arguments[0]) and not (event == "os.mkdir" and os.path.exists(arguments[0])):
            step(f"{event} {arguments[0]}")

    opened, changing = sqlite3.connect, set()

    def connect(*arguments, **options):
        connection = opened(*arguments, **options)
        connection.set_trace_callback(lambda text: statement(id(connection), text))
        return connection

    def statement(transaction: int, text: str) -> None:
        if text.startswith("COMMIT") and transaction in changing:
            changing.discard(transaction)
            step(text)
        elif text.startswith(STATEMENTS) and transaction not in changing:
            changing.add(transaction)
            step(text[:60])

    sqlite3.connect = sqlite3.dbapi2.connect = connect
    sys.addaudithook(hook)
