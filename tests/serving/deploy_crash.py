"""A process that ends itself by SIGKILL at the n-th step of a deployment, for the test of what is left then.

A step is anything by which a killed deployment could leave something else: a file of the repository opened for writing, renamed or
removed, a folder made or removed, and the moments before and after each load and unload at the server. Nothing is replaced: calls
to the server are counted on their way through.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cmb_models.serving.deploy.desired import DesiredState
from cmb_models.serving.deploy.fleet import Target, reconcile
from cmb_models.serving.deploy.observed import Admin
from tests.support.steps import dies_at

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PRELOAD = ["cmb_models.serving.deploy.fleet", "tests.serving.deploy_crash"]


def deploy_and_die(wanted: DesiredState, target: Target, step: int) -> bool:
    """Deploy in a process of its own that is killed when it comes to `step` (from 1); False when it ended before that."""
    context = multiprocessing.get_context("forkserver")  # gRPC does not outlive a fork
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_child, args=(wanted, target, step))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), f"the deployment ended with {process.exitcode} before step {step}"
    return process.exitcode != 0


def _child(wanted: DesiredState, target: Target, last: int) -> None:
    step = dies_at(last)
    _count_changes(os.path.realpath(target.repository), step)
    for name in ("load", "unload"):
        setattr(Admin, name, _counted(getattr(Admin, name), name, step))
    reconcile(wanted, [target])
    os._exit(0)


def _counted(call: Callable, name: str, step: Callable[[str], None]) -> Callable:
    def counted(admin: Admin, model) -> None:
        report = f"{name} {model['name'] if isinstance(model, dict) else model}"
        step(f"before {report}")
        call(admin, model)
        step(f"after {report}")

    return counted


def _count_changes(folder: str, step: Callable[[str], None]) -> None:
    def inside(path) -> bool:
        named = isinstance(path, str | bytes | os.PathLike) and os.path.isabs(path)
        return named and os.path.realpath(os.fsdecode(path)).startswith(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and inside(arguments[0]) and (arguments[2] or 0) & WRITES:
            step(f"open {arguments[0]}")
        elif event in CHANGES and inside(arguments[0]) and not (event == "os.mkdir" and Path(os.fsdecode(arguments[0])).exists()):
            step(f"{event} {arguments[0]}")

    sys.addaudithook(hook)
