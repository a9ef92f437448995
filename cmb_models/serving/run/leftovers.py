"""Removal of what a server leaves when it and its supervisor are killed at once: shared memory and a temporary folder.

Each server has a record next to its log. The next start there removes what the records of dead servers name. The folder may be
shared by hosts, of which each knows its own processes alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmb_models.files import read_json, write_json

SHARED_MEMORY = Path("/dev/shm")
PROCESSES = Path("/proc")
BOOT_ID = PROCESSES / "sys/kernel/random/boot_id"
RECORD = ".server-{}.json"


@contextlib.contextmanager
def recorded(folder: Path, token: str, shm_prefix: str, temporary: Path) -> Iterator[None]:
    """Keep the record of a server while the block runs, after removing what dead servers left.

    Args:
        folder: Of the server's log.
        token: The server's id, which its command line contains.
        shm_prefix: Of its names in /dev/shm.
        temporary: Its temporary folder.
    """
    remove_leftovers(folder)
    file, pid = folder / RECORD.format(token), os.getpid()
    started = {"token": token, "pid": pid, "began": _began(pid), "host": socket.gethostname(), "boot": _boot()}
    write_json(file, {**started, "shm_prefix": shm_prefix, "folder": str(temporary)})
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what the servers of this host recorded in a folder left, if neither they nor the processes that started them live.

    Of those from before the last boot only the record is left. Damaged records are ignored.
    """
    for file in folder.glob(RECORD.format("*")):
        with contextlib.suppress(OSError):  # another start removes it
            record = _read(file)
            if record is None or record["host"] != socket.gethostname():
                continue
            if record["boot"] == _boot():
                if _began(record["pid"]) == record["began"] or _serves(record["token"]):
                    continue
                for region in SHARED_MEMORY.glob(f"{record['shm_prefix']}*"):
                    region.unlink(missing_ok=True)
                shutil.rmtree(record["folder"], ignore_errors=True)
            file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any] | None:
    """A record; None for a damaged one. An empty prefix would name everybody's shared memory."""
    try:
        record = read_json(file)
        names = [record[key] for key in ("host", "boot", "token", "began", "shm_prefix", "folder")]
        return record if isinstance(record["pid"], int) and all(isinstance(n, str) and n for n in names) else None
    except (ValueError, KeyError, TypeError):
        return None


def _boot() -> str:
    """An id of this boot of the host."""
    return BOOT_ID.read_text().strip()


def _began(pid: int) -> str:
    """When a process began, in clock ticks since boot: a number used again has another time. "" if there is none."""
    try:
        return (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _serves(token: str) -> bool:
    """Whether a process lives that has the server's id in its command line: tritonserver, or one of its steps."""
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (process / "cmdline").read_bytes():
                return True
    return False
