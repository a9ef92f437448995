"""Keeps one tritonserver: starts it, waits for it or for the end of its own standard input, and leaves nothing behind.

Its input is a pipe that the starting process holds. The pipe closes however that process ends, killed outright included, so the
server, its Python stubs, its shared memory and its temporary folder go in every case. Once told `keep` there, it starts a server
that ended by itself again, with the same ports and nothing loaded. Standard library alone: it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)
KEEP = b"keep"
STEADY_S = 60.0  # a server that ran for longer ended for another reason than the one before
MOST_S = 30.0  # the longest wait before starting it again
MOST_STARTS = 10  # in a row, none of them steady; then it is given up


def main(spec_file: str) -> int:
    """Run the server described by a JSON file: command, environment, log, shm_prefix, folder (removed), grace_s.

    Prints the server's process id, and that of each one that is started after it.
    """
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    told, short = _Input(), 0
    try:
        while True:
            since = time.monotonic()
            code = _run(spec, told)
            short = 0 if time.monotonic() - since > STEADY_S else short + 1
            if told.closed or not told.keep or short >= MOST_STARTS:
                return code
            pause_s = min(MOST_S, 0.25 * 2**short)
            _note(spec["log"], f"tritonserver ended ({code}); it is started again in {pause_s:g} s")
            told.wait(pause_s)
            if told.closed:
                return code
    finally:
        shutil.rmtree(spec["folder"], ignore_errors=True)


def _run(spec: dict, told: _Input) -> int:
    """Run the server once, until it ends or nobody wants it any more; its exit status."""
    with open(spec["log"], "ab") as log:
        server = subprocess.Popen(
            spec["command"],
            env=spec["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        sys.stdout.write(f"{server.pid}\n")
        sys.stdout.flush()
        while server.poll() is None and not told.closed:
            told.wait(0.2)
        return server.returncode or 0
    finally:
        _end(server, spec["grace_s"])
        for file in Path("/dev/shm").glob(f"{spec['shm_prefix']}*"):
            file.unlink(missing_ok=True)


class _Input:
    """What the starting process says: `keep`, or that it is gone."""

    def __init__(self) -> None:
        self.closed, self.keep = False, False

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as something is said."""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if ready:
            said = os.read(sys.stdin.fileno(), 1024)
            self.closed, self.keep = not said, self.keep or KEEP in said


def _note(log: str, text: str) -> None:
    with open(log, "ab") as stream:
        stream.write(f"supervisor: {text}\n".encode())


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(server: subprocess.Popen, grace_s: float) -> None:
    """Ask the server to end, then kill it and all its stubs, which share its process group."""
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
