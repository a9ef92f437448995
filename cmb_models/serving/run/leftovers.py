"""Removal of what a server leaves when it and its supervisor are killed at once: shared memory and a temporary folder.

Each server has a record next to its log. The next start there removes what the records of dead servers name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cmb_models.files import read_json, write_json

SHARED_MEMORY = Path("/dev/shm")
PROCESSES = Path("/proc")
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
    started = {"token": token, "pid": pid, "began": _began(pid)}
    write_json(file, {**started, "shm_prefix": shm_prefix, "folder": str(temporary)})
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what the servers recorded in a folder left, if neither they nor the processes that started them live."""
    for file in folder.glob(RECORD.format("*")):
        with contextlib.suppress(OSError, ValueError, KeyError):  # another start removes it, or it is damaged
            record = read_json(file)
            if _began(record["pid"]) == record["began"] or _serves(record["token"]):
                continue
            for region in SHARED_MEMORY.glob(f"{record['shm_prefix']}*"):
                region.unlink(missing_ok=True)
            shutil.rmtree(record["folder"], ignore_errors=True)
            file.unlink(missing_ok=True)


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
