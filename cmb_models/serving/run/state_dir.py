"""The state directory of `cmb server run`: server.json while the server runs, and the admin key."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from cmb_models.client.contract import ADMIN_KEY
from cmb_models.errors import InputError
from cmb_models.files import exclusive, read_json, write_json
from cmb_models.serving.run.triton_process import Server

SERVER_FILE, REPOSITORY, LOG = "server.json", "repository", "server.log"
KEY_FILE = "admin.key"  # mode 600


@contextlib.contextmanager
def announced(state: Path, server: Server) -> Iterator[Callable[[int], None]]:
    """Keep server.json while the block runs; the yielded function updates its process id."""

    def announce(pid: int) -> None:
        urls = {"grpc_url": server.address, "http_url": server.http_url, "metrics_url": server.metrics_url}
        write_json(state / SERVER_FILE, {**urls, "pid": pid})

    announce(server.pid)
    try:
        yield announce
    finally:
        (state / SERVER_FILE).unlink(missing_ok=True)


def running_metrics(state: Path, url: str) -> str | None:
    """Address of the metrics of a state directory's server, if it is the one at the gRPC address `url`."""
    with contextlib.suppress(FileNotFoundError):
        known = read_json(Path(state) / SERVER_FILE)
        if url == known["grpc_url"]:
            metrics: str | None = known.get("metrics_url")
            return metrics
    return None


def running_url(state: Path) -> str:
    """The gRPC address of a state directory's server. Raises InputError if none runs."""
    file = Path(state) / SERVER_FILE
    if not file.is_file():
        raise InputError(
            "server-not-running",
            file,
            "a running server",
            "none",
            "start one with `cmb server run`, or name one with --server HOST:PORT",
        )
    return read_json(file)["grpc_url"]


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Lock the state directory against a second server; the process releases the lock on exit."""
    state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(state / ".serve.lock", wait=False))
        except BlockingIOError as error:
            raise InputError(
                "folder-in-use", state, "a folder no other server uses", "a running `cmb server run`", "stop it or pass --state-dir"
            ) from error
        yield


def state_key(state: Path) -> str:
    """The admin key: CMB_ADMIN_KEY, else that of the state directory, generated if missing."""
    if key := os.environ.get(ADMIN_KEY):
        return key
    if (key := stored_key(state)) is not None:
        return key
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / f".partial-{os.getpid()}-{KEY_FILE}"
    key = secrets.token_urlsafe(32)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(key)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, state / KEY_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return key


def stored_key(state: Path) -> str | None:
    """The key in a state directory; None without one. Raises InputError if others can read it or it belongs to another user."""
    file = Path(state) / KEY_FILE
    try:
        mode = file.stat().st_mode
        if mode & 0o077:
            raise InputError(
                "key-exposed", file, "a key that its owner alone may read", f"mode {mode & 0o777:o}", f"run chmod 600 {file}"
            )
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        remedy = f"run this as the user who started the server, or set {ADMIN_KEY}"
        raise InputError("key-exposed", file, "the server's admin key", "a file of another user", remedy) from error
