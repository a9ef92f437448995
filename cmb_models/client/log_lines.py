"""Logs of one JSON object a line that several processes write at once. What an audit must not lose is chained: hash_chain.py.

No handler of the standard library does this: RotatingFileHandler and TimedRotatingFileHandler are for one process ("logging to a
single file from multiple processes is not supported", Logging Cookbook), a process that did not rotate goes on writing to the
renamed file, and both block on a pipe that nobody reads.
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

# Flags that only some systems have: not inherited, not waiting for a pipe's reader, no translation of line ends.
SYSTEM_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
MOST_BYTES = 16 * 2**20  # a file; some 20,000 requests
MOST_AGE_S = 30 * 24 * 3600.0
KEPT = 12  # files beside the current one: 208 MiB at most, and a year where little is sent
TIME = re.compile(rb'^\{"time": "([^"]+)"')  # how every line begins


def now() -> str:
    """The time in UTC to the millisecond (RFC 3339)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineLog:
    """A log that is appended to, turned over by size and age: (kept + 1) files of most_bytes, and what is written meanwhile.

    The files are FILE, FILE.1 (the newest before it) to FILE.<kept>. Each line is one write to a file opened for appending, so that
    processes never mix theirs; who is writing while another turns the log over writes the end of FILE.1. What is no plain file, as
    /dev/stdout, is written to as it stands.
    """

    def __init__(self, file: Path, most_bytes: int = MOST_BYTES, most_age_s: float = MOST_AGE_S, kept: int = KEPT) -> None:
        self.file, self.most_bytes, self.most_age_s, self.kept = Path(file), most_bytes, most_age_s, kept

    def append(self, entry: dict[str, Any]) -> None:
        """Append one entry, `time` put first. Raises OSError where it cannot be written, ValueError for what is no JSON."""
        line = json.dumps({"time": now(), **entry}, allow_nan=False).encode() + b"\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._turn_over(len(line))
        # Non-blocking, so that a pipe nobody reads is an error and no standstill; a plain file is written at once either way.
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | SYSTEM_FLAGS, 0o640)
        try:
            if _ends_in_half_a_line(descriptor):
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):  # the disk filled up; the next line that fits begins on a line of its own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def _turn_over(self, more: int) -> None:
        """Make room by renaming, if it is time. One process at a time does; the others go on writing meanwhile."""
        if not self._is_full(more):
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(Path(f"{self.file}.lock"), wait=False))
            except BlockingIOError:
                return
            except InputError:  # a system without locks, on which one client writes and no server
                pass
            if not self._is_full(more):  # another has done it between the look and the lock
                return
            for n in range(self.kept, 0, -1):  # the oldest is overwritten first, so that a kill leaves a gap and loses nothing
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.file}.{n - 1}" if n > 1 else self.file, f"{self.file}.{n}")

    def _is_full(self, more: int) -> bool:
        try:
            status = self.file.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        return status.st_size + more > self.most_bytes or self._age_s() > self.most_age_s

    def _age_s(self) -> float:
        """Seconds since the file's first line; 0 where that says no time."""
        with contextlib.suppress(FileNotFoundError, ValueError), open(self.file, "rb") as stream:
            if found := TIME.match(stream.read(64)):
                return (datetime.now(UTC) - datetime.fromisoformat(found[1].decode())).total_seconds()
        return 0.0


def _ends_in_half_a_line(descriptor: int) -> bool:
    """Whether a plain file ends without a line's end. Looked at twice: another process's write may be seen while it goes on."""
    for wait_s in (0.002, 0):
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        os.lseek(descriptor, -1, os.SEEK_END)  # writes go to the end whatever is read before
        if os.read(descriptor, 1) == b"\n":
            return False
        time.sleep(wait_s)
    return True


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of one file, oldest first; what is no entry (half a line of a full disk) is left out."""
    with Path(file).open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(entry, dict):
                yield entry
