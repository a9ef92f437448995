"""Watchdog of a bundled server: redeploys after a restart, and restarts dead steps.

The supervisor restarts a server that exits. tritonserver does not restart the process of a Python step and keeps reporting its
model as ready while every request fails, so the watchdog checks the processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.serving.deploy.desired import DesiredState
from cmb_models.serving.deploy.fleet import Target, locked, reconcile
from cmb_models.serving.deploy.observed import Admin, ObservedState
from cmb_models.serving.deploy.reconcile import revive
from cmb_models.serving.run.triton_process import Server

logger = logging.getLogger(__name__)

WATCH_S = 0.5  # between two checks
SILENT_S = 60.0  # an unresponsive server is killed, and so restarted, after this time
RETRY_S, MAX_RETRY_S = 10.0, 600.0  # delay before a failed deployment is retried, doubled each time
STUB = "triton_python_backend_stub"

Step = tuple[str, int]  # a model and its version


class Watchdog:
    """Watchdog of one server.

    desired: called at every restart for the state to deploy; None for a read-only repository, which the server loads itself.
    report: called with a sentence for each event.
    """

    def __init__(
        self, server: Server, repository: Path, desired: Callable[[], DesiredState | None] | None, report: Callable[[str], None]
    ) -> None:
        self._server, self._target, self._desired, self._report = server, Target(server.address, repository), desired, report
        self.pid = server.pid
        self._dead: set[Step] = set()
        self._answered_at = time.monotonic()
        self._due: float | None = None  # time of the next deployment
        self._retry_s = RETRY_S

    def watch(self, restarted: Callable[[int], None]) -> None:
        """Watch until the supervisor gives up. restarted: called with the process id of every restart."""
        self._server.keep()
        while self._server.alive():
            for pid in self._server.restarted_pids():
                self._report(f"the server exited and was restarted (process {pid}); see {self._server.log}")
                self.pid, self._answered_at, self._dead = pid, time.monotonic(), set()
                self._due = time.monotonic() if self._desired else None
                restarted(pid)
            self._check()
            time.sleep(WATCH_S)

    def _check(self) -> None:
        try:
            with Admin(self._target.url) as admin:
                observed = admin.observed()
        except InputError:
            if time.monotonic() - self._answered_at > SILENT_S:
                self._end(f"the server has not answered for {SILENT_S:g} s and is killed")
            return
        self._answered_at = time.monotonic()
        if self._due is not None and self._answered_at >= self._due:
            self._deploy()
        else:
            self._revive(observed)

    def _deploy(self) -> None:
        """Deploy the desired state; retry later on failure."""
        self._due = None
        try:
            desired = self._desired() if self._desired else None
            for result in reconcile(desired, [self._target]) if desired else ():
                self._report(str(result))
            self._retry_s = RETRY_S
        except (InputError, RuntimeError) as error:
            self._report(f"deployment failed, retry in {self._retry_s:g} s: {error}")
            self._due, self._retry_s = time.monotonic() + self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)

    def _revive(self, observed: ObservedState) -> None:
        """Restart steps that are dead in two checks in a row: once may be a deployment that is loading or unloading them."""
        dead = dead_steps(observed, living_steps(self.pid))
        if confirmed := dead & self._dead:
            names = ", ".join(f"{model} of release {version}" for model, version in sorted(confirmed))
            if self._desired is None:
                self._end(f"died: {names}; the server is killed, since its repository is read-only")
                return
            with contextlib.suppress(BlockingIOError), locked(self._target.repository, wait=False):
                self._report(f"died: {names}; restarted")
                self._revive_now(confirmed)
        self._dead = dead

    def _revive_now(self, steps: Iterable[Step]) -> None:
        try:
            with Admin(self._target.url) as admin:
                revive(admin, self._target.repository, steps)
        except (InputError, OSError) as error:
            self._end(f"restart failed ({error}); the server is killed")

    def _end(self, reason: str) -> None:
        self._report(f"{reason}; it is being restarted")
        self._answered_at, self._dead = time.monotonic(), set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def dead_steps(observed: ObservedState, living: set[Step]) -> set[Step]:
    """Steps that the server reports as ready but that have no process."""
    return {(model, version) for version, models in observed.resident.items() for model in models} - living


def living_steps(pid: int) -> set[Step]:
    """Steps that have a living process under tritonserver's process id: the bundled server runs all of them in Python."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            if int(group) != pid or state == "Z":
                continue
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if command[0].endswith(STUB):
            version = Path(command[1]).parent
            found.add((version.parent.name, int(version.name)))
    return found
