"""The state directory of `cmb server run`: server.json, there as long as the server is, and the admin key."""

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
KEY_FILE = "admin.key"  # for its owner alone


@contextlib.contextmanager
def announced(state: Path, server: Server) -> Iterator[Callable[[int], None]]:
    """Write server.json for as long as the block runs; what is given writes it anew with another process id."""

    def announce(pid: int) -> None:
        write_json(state / SERVER_FILE, {"grpc_url": server.address, "http_url": server.http_url, "pid": pid})

    announce(server.pid)
    try:
        yield announce
    finally:
        (state / SERVER_FILE).unlink(missing_ok=True)


def running_url(state: Path) -> str:
    """The gRPC address of the server of a state folder. Raises InputError when none runs."""
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
    """Refuse a second server on the same state folder; the claim goes with the process, however it ends."""
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
    """The admin key of a server with this state folder: CMB_ADMIN_KEY, else the folder's own, made at random when there is none."""
    if given := os.environ.get(ADMIN_KEY):
        return given
    if (found := kept_key(state)) is not None:
        return found
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


def kept_key(state: Path) -> str | None:
    """The key that a state folder keeps; None without one. Raises InputError for one that others may read or that is not ours."""
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
        raise InputError("key-exposed", file, "the server's admin key", "a file of another user's", remedy) from error
