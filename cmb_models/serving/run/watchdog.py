"""Keep a bundled server right: what was served is deployed again after a restart, and a step that died is started anew.

The supervisor starts a server that ended. The rest has to be noticed: tritonserver never starts the process of a Python step again,
and goes on telling that its model is ready while every request fails, so the processes themselves are looked at.
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

WATCH_S = 0.5  # between two looks
SILENT_S = 60.0  # a server that answers nobody for so long is ended, and so started again
RETRY_S, MOST_RETRY_S = 10.0, 600.0  # between two tries to deploy what cannot be: doubled each time
STUB = "triton_python_backend_stub"

Step = tuple[str, int]  # a model and its version


class Watchdog:
    """Watches one server. wanted: what it is to serve, asked for at every restart; None: its repository is read-only, and it loads
    all of that by itself. say: told each event in a sentence."""

    def __init__(
        self, server: Server, repository: Path, wanted: Callable[[], DesiredState | None] | None, say: Callable[[str], None]
    ) -> None:
        self._server, self._target, self._wanted, self._say = server, Target(server.address, repository), wanted, say
        self.pid = server.pid
        self._dead: set[Step] = set()
        self._heard = time.monotonic()
        self._due: float | None = None  # when to deploy again
        self._retry_s = RETRY_S

    def watch(self, restarted: Callable[[int], None]) -> None:
        """Watch until the server is given up. restarted: called with the process id of every new one."""
        self._server.keep()
        while self._server.alive():
            for pid in self._server.started_anew():
                self._say(f"the server ended by itself and was started again (process {pid}); see {self._server.log}")
                self.pid, self._heard, self._dead = pid, time.monotonic(), set()
                self._due = time.monotonic() if self._wanted else None
                restarted(pid)
            self._look()
            time.sleep(WATCH_S)

    def _look(self) -> None:
        try:
            with Admin(self._target.url) as admin:
                observed = admin.observed()
        except InputError:
            if time.monotonic() - self._heard > SILENT_S:
                self._end(f"the server has not answered for {SILENT_S:g} s and is ended")
            return
        self._heard = time.monotonic()
        if self._due is not None and self._heard >= self._due:
            self._deploy()
        else:
            self._revive(observed)

    def _deploy(self) -> None:
        """Serve again what was served. What cannot be served now is tried again later."""
        self._due = None
        try:
            wanted = self._wanted() if self._wanted else None
            for done in reconcile(wanted, [self._target]) if wanted else ():
                self._say(str(done))
            self._retry_s = RETRY_S
        except (InputError, RuntimeError) as error:
            self._say(f"not all is deployed, tried again in {self._retry_s:g} s: {error}")
            self._due, self._retry_s = time.monotonic() + self._retry_s, min(2 * self._retry_s, MOST_RETRY_S)

    def _revive(self, observed: ObservedState) -> None:
        """Start the steps anew that are dead at a second look: at the first, a deployment may just be loading or unloading them."""
        dead = dead_steps(observed, living_steps(self.pid))
        if again := dead & self._dead:
            names = ", ".join(f"{model} of release {version}" for model, version in sorted(again))
            if self._wanted is None:
                self._end(f"died: {names}; the server is ended, since its repository is read-only")
                return
            with contextlib.suppress(BlockingIOError), locked(self._target.repository, wait=False):
                self._say(f"died: {names}; started anew")
                self._revive_now(again)
        self._dead = dead

    def _revive_now(self, steps: Iterable[Step]) -> None:
        try:
            with Admin(self._target.url) as admin:
                revive(admin, self._target.repository, steps)
        except (InputError, OSError) as error:
            self._end(f"that failed ({error}); the server is ended")

    def _end(self, why: str) -> None:
        self._say(f"{why}; it is started again")
        self._heard, self._dead = time.monotonic(), set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def dead_steps(observed: ObservedState, living: set[Step]) -> set[Step]:
    """Steps that the server calls ready and that have no process."""
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
