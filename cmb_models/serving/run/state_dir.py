"""What a running `cmb server run` leaves for others to find: `<state>/server.json`, there as long as the server is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import exclusive, read_json, write_json
from cmb_models.serving.run.triton_process import Server

SERVER_FILE, REPOSITORY, LOG = "server.json", "repository", "server.log"


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
                "folder-in-use", state, "a folder no other server uses", "a running `cmb server run`", "stop it or pass --state"
            ) from error
        yield
