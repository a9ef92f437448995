"""Keeps one tritonserver: starts it, waits for it or for the end of its own standard input, and leaves nothing behind.

Its input is a pipe that the starting process holds. The pipe closes however that process ends, killed outright included, so the
server, its Python stubs, its shared memory and its temporary folder go in every case. Standard library alone: it starts at once.
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
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(spec_file: str) -> int:
    """Run the server described by a JSON file: command, environment, log, shm_prefix, folder (removed), grace_s."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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
        while server.poll() is None and not _input_closed(0.2):
            pass
        return server.returncode or 0
    finally:
        _end(server, spec["grace_s"])
        for file in Path("/dev/shm").glob(f"{spec['shm_prefix']}*"):
            file.unlink(missing_ok=True)
        shutil.rmtree(spec["folder"], ignore_errors=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _input_closed(wait_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1024)


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
