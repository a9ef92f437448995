"""A reproduction that is stopped: no clone is left in the temporary folder, no stage continues, and no traceback is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cmb_models.registry.register import register
from tests.integration import registry_workspace
from tests.integration.registry_workspace import start
from tests.support import pace

WAIT_S = 60


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A workspace with release 1, whose last stage waits while ../slow exists."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "site").mkdir()
    slow = tmp_path / "slow"
    last = registry_workspace.STAGES["cross_validate"]
    wait = f"if [ -e {slow} ]; then touch {slow}.begun; sleep 300; fi; {last['cmd']}"
    monkeypatch.setitem(registry_workspace.STAGES, "cross_validate", {**last, "cmd": wait})
    folder = start(tmp_path / "site")
    register(folder)
    slow.touch()
    return folder


def reproduce(site: Path) -> subprocess.Popen:
    command = [str(Path(sys.executable).parent / "cmb"), "release", "reproduce", "1"]
    return subprocess.Popen(
        command, cwd=site, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=dict(os.environ)
    )


def until(condition) -> bool:
    deadline = pace.seconds(WAIT_S) + time.monotonic()
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def clones(site: Path) -> list[Path]:
    """The folders, without the lock files next to them."""
    return [place for place in (site.parent / "tmp").glob("cmb-reproduce-*") if place.is_dir()]


def in_the_stage(site: Path, process: subprocess.Popen) -> list[psutil.Process]:
    """Wait until the last stage runs; the processes of the reproduction."""
    assert until((site.parent / "slow.begun").exists) and len(clones(site)) == 1
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_reproduction_leaves_nothing(site, how):
    with reproduce(site) as process:
        children = in_the_stage(site, process)
        os.killpg(process.pid, how)
        output = process.communicate(timeout=pace.seconds(WAIT_S))[0]
    assert process.returncode not in (0, None) and "Traceback" not in output, output
    assert list((site.parent / "tmp").glob("cmb-reproduce-*")) == []
    assert until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


@pytest.mark.slow
def test_the_next_reproduction_removes_the_clone_of_a_killed_one_and_none_in_use(site):
    with reproduce(site) as killed:
        children = in_the_stage(site, killed)
        killed.kill()
    for child in children:
        child.kill()
    (left,) = clones(site)
    (site.parent / "slow.begun").unlink()
    with reproduce(site) as running:
        in_the_stage(site, running)
        assert not left.exists()
        (site.parent / "slow").unlink()
        in_use = clones(site)
        done = reproduce(site)
        assert done.wait(pace.seconds(WAIT_S)) == 0 and clones(site) == in_use
        os.killpg(running.pid, signal.SIGTERM)
