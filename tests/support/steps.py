"""Dying at a chosen step: for tests that kill a process everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def dies_at(last: int) -> Callable[[str], None]:
    """A function to call before each step, with what it is: SIGKILL at step `last`. CRASH_STEPS has it name them on stderr."""
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if os.environ.get("CRASH_STEPS"):
            os.write(2, f"{done} {what}\n".encode())
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return step
