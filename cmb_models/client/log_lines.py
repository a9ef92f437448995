"""JSON Lines logs that several processes append to, with rotation. For tamper-evident logs see hash_chain.py.

The standard library's rotating handlers support only one process ("logging to a single file from multiple processes is not
supported", Logging Cookbook): other processes keep writing to the renamed file. They also block on a pipe without a reader.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import exclusive

# Platform-dependent flags: not inherited, non-blocking pipes, no newline translation.
SYSTEM_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
MAX_BYTES = 16 * 2**20  # per file; about 20,000 requests
MAX_AGE_S = 30 * 24 * 3600.0
KEPT = 12  # rotated files: at most 208 MiB, and a year at low rates
TIME = re.compile(rb'^\{"time": "([^"]+)"')  # start of every line


def now() -> str:
    """The time in UTC to the millisecond (RFC 3339)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineLog:
    """An append-only log, rotated by size and age to at most (kept + 1) files of about max_bytes.

    The files are FILE, FILE.1 (the newest rotated one) to FILE.<kept>. Each line is a single write in append mode, so that lines of
    different processes never mix; a write during a rotation by another process ends up in FILE.1. Special files such as
    /dev/stdout are never rotated.
    """

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES, max_age_s: float = MAX_AGE_S, kept: int = KEPT) -> None:
        self.file, self.max_bytes, self.max_age_s, self.kept = Path(file), max_bytes, max_age_s, kept

    def append(self, entry: dict[str, Any]) -> None:
        """Append one entry, `time` put first. Raises OSError if it cannot be written, ValueError for invalid JSON."""
        line = json.dumps({"time": now(), **entry}, allow_nan=False).encode() + b"\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._rotate(len(line))
        # Non-blocking, so that a pipe without a reader gives an error; it has no effect on regular files.
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | SYSTEM_FLAGS, 0o640)
        try:
            if _ends_in_partial_line(descriptor):
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):  # full disk; the next append starts a new line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def _rotate(self, more: int) -> None:
        """Rotate by renaming, if due. One process at a time; others keep writing meanwhile."""
        if not self._is_full(more):
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(Path(f"{self.file}.lock"), wait=False))
            except BlockingIOError:
                return
            except InputError:  # no locks on this system, where only a client writes
                pass
            if not self._is_full(more):  # another process rotated before the lock was taken
                return
            for n in range(self.kept, 0, -1):  # oldest first, so that an interruption loses nothing
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.file}.{n - 1}" if n > 1 else self.file, f"{self.file}.{n}")

    def _is_full(self, more: int) -> bool:
        try:
            status = self.file.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        return status.st_size + more > self.max_bytes or self._age_s() > self.max_age_s

    def _age_s(self) -> float:
        """Seconds since the file's first line; 0 if that has no time."""
        with contextlib.suppress(FileNotFoundError, ValueError), open(self.file, "rb") as stream:
            if found := TIME.match(stream.read(64)):
                return (datetime.now(UTC) - datetime.fromisoformat(found[1].decode())).total_seconds()
        return 0.0


def _ends_in_partial_line(descriptor: int) -> bool:
    """Whether a regular file ends without a newline. Checked twice, since another process may be writing."""
    for wait_s in (0.002, 0):
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        os.lseek(descriptor, -1, os.SEEK_END)  # append mode is unaffected by seeks
        if os.read(descriptor, 1) == b"\n":
            return False
        time.sleep(wait_s)
    return True


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of one file, oldest first; invalid lines (truncated by a full disk) are skipped."""
    with Path(file).open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(entry, dict):
                yield entry
