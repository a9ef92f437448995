"""Starts a program with an argument that the list of processes does not show.

tritonserver takes its admin key as an argument, and everybody on a machine may read everybody's arguments (/proc/PID/cmdline), but
nobody else's environment. So the argument goes into the environment, something of no value stands in its place, and before the
program has run its first instruction its argument pointer is turned to the environment: by a second process that traces the first
while it starts (ptrace(2)). Where tracing is not allowed, the key is passed openly, and the log says so. Standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import struct
import sys
from pathlib import Path

KEY, STAND_IN, PREFIX = "CMB_HIDDEN_KEY", "{admin-key}", "CMB_HIDDEN_ARGUMENT_"
PTRACE_SEIZE, PTRACE_DETACH, TRACE_EXEC, PR_SET_PTRACER, WALL = 0x4206, 17, 0x10, 0x59616D61, 0x40000000
EXEC_STOP = signal.SIGTRAP | (4 << 8)  # PTRACE_EVENT_EXEC
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def main(command: list[str]) -> None:
    """Become `command`, with STAND_IN in its arguments replaced by the environment's KEY. The process keeps its number."""
    environment = dict(os.environ)
    key = environment.pop(KEY)
    real = [argument.replace(STAND_IN, key) for argument in command]
    hidden = {n: argument for n, argument in enumerate(real) if argument != command[n]}
    if _traced(hidden):
        os.execve(command[0], command, environment | {f"{PREFIX}{n}": argument for n, argument in hidden.items()})
    sys.stderr.write("warning: tracing is not allowed here, so the admin key shows in the list of processes\n")
    sys.stderr.flush()
    os.execve(command[0], real, environment)


def _traced(hidden: dict[int, str]) -> bool:
    """Start the process that traces this one while it starts; whether it does. It ends by itself."""
    own = os.getpid()
    (asked, ask), (told, tell) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        if tracer := os.fork():  # a grandchild, so that the program has no child it does not know of
            os.write(tell, struct.pack("<i", tracer))
            os._exit(0)
        try:
            os.read(asked, 1)
            allowed = libc.ptrace(PTRACE_SEIZE, own, None, TRACE_EXEC) == 0
            os.write(tell, b"y" if allowed else b"n")
            os.closerange(3, 64)
            if allowed:
                _turn_pointers(own, hidden)
        finally:
            os._exit(0)
    tracer = struct.unpack("<i", os.read(told, 4))[0]
    os.waitpid(child, 0)
    libc.prctl(PR_SET_PTRACER, tracer, 0, 0, 0)  # where a process may not trace those above it unless they agree
    os.write(ask, b"?")
    os.close(tell)
    return os.read(told, 1) == b"y"


def _turn_pointers(pid: int, hidden: dict[int, str]) -> None:
    """Wait until the program is in place, make its arguments `hidden` point to the environment, let it run."""
    while os.waitpid(pid, WALL)[1] >> 8 != EXEC_STOP:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        first, end, variables, last = (int(fields[n - 3]) for n in (48, 49, 50, 51))
        stack = int(re.search(r"^([0-9a-f]+)-.*\[stack\]$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)[1], 16)
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            below, arguments, environment = (_read(memory, *span) for span in ((stack, first), (first, end), (variables, last)))
            starts = [first, *(first + n + 1 for n, byte in enumerate(arguments[:-1]) if byte == 0)]
            table = below.rindex(struct.pack("<2Q", *starts[:2]))
            for n, argument in hidden.items():
                place = variables + environment.index(f"{PREFIX}{n}={argument}".encode()) + len(f"{PREFIX}{n}=")
                memory.seek(stack + table + 8 * n)
                memory.write(struct.pack("<Q", place))
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # else it would run with the stand-in, which anybody knows, as its key
        raise
    finally:
        libc.ptrace(PTRACE_DETACH, pid, None, None)


def _read(memory, start: int, end: int) -> bytes:
    memory.seek(start)
    return memory.read(end - start)


if __name__ == "__main__":
    main(sys.argv[1:])
