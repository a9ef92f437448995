"""Supervisor of one tritonserver: starts it, restarts it if asked to, and cleans up after it.

Its standard input is a pipe held by the parent process. The pipe closes however the parent ends, SIGKILL included, and the server,
its Python stubs, its shared memory and its temporary folder are then removed. After the command `keep` the supervisor restarts a
server that exits, on the same ports with nothing loaded. It imports only the standard library, to start quickly.
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
STEADY_S = 60.0  # a longer run resets the count of failed starts
MAX_DELAY_S = 30.0  # before a restart
MAX_STARTS = 10  # in a row without a steady run, then give up


def main(spec_file: str) -> int:
    """Run the server described by a JSON file: command, environment, log, shm_prefix, folder (removed), grace_s.

    Prints the process id of the server and of each restarted one.
    """
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control, short = _Control(), 0
    try:
        while True:
            started = time.monotonic()
            code = _run(spec, control)
            short = 0 if time.monotonic() - started > STEADY_S else short + 1
            if control.closed or not control.keep or short >= MAX_STARTS:
                return code
            pause_s = min(MAX_DELAY_S, 0.25 * 2**short)
            _log(spec["log"], f"tritonserver ended ({code}); restarting in {pause_s:g} s")
            control.wait(pause_s)
            if control.closed:
                return code
    finally:
        shutil.rmtree(spec["folder"], ignore_errors=True)


def _run(spec: dict, control: _Control) -> int:
    """Run the server until it exits or the pipe closes; return its exit status."""
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
        while server.poll() is None and not control.closed:
            control.wait(0.2)
        return server.returncode or 0
    finally:
        _end(server, spec["grace_s"])
        for file in Path("/dev/shm").glob(f"{spec['shm_prefix']}*"):
            file.unlink(missing_ok=True)


class _Control:
    """Commands of the parent process: `keep`, or a closed pipe."""

    def __init__(self) -> None:
        self.closed, self.keep = False, False

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or on input."""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if ready:
            data = os.read(sys.stdin.fileno(), 1024)
            self.closed, self.keep = not data, self.keep or KEEP in data


def _log(log: str, text: str) -> None:
    with open(log, "ab") as stream:
        stream.write(f"supervisor: {text}\n".encode())


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(server: subprocess.Popen, grace_s: float) -> None:
    """Terminate the server, then kill it and its stubs, which share its process group."""
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
