"""`cmb server run` under kill -9: clients get a clean status and no hang, and what was served answers again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmb_models.client.contract import CANDIDATES, PREPARE, STEPS, UNET
from cmb_models.client.grpc import Client
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.release.bundle import verify_manifest
from cmb_models.serving.deploy.observed import ObservedState
from cmb_models.serving.run.state_dir import SERVER_FILE
from cmb_models.serving.run.watchdog import STUB, dead_steps, living_steps
from tests.support import pace
from tests.support.bundles import head, make_bundle

pytestmark = [pytest.mark.serving, pytest.mark.slow]
BACK_S = 60  # times pace: on a busy machine; a quiet one takes a few seconds
CLEAN_S = 30  # times pace: a client's wait; a status comes within half of it


@dataclass(frozen=True)
class Kept:
    """A running `cmb server run`, the bundle it serves and what it has said."""

    state: Path
    manifest_sha256: str
    lines: list[str]

    @property
    def pid(self) -> int:
        return read_json(self.state / SERVER_FILE)["pid"]

    @property
    def url(self) -> str:
        return read_json(self.state / SERVER_FILE)["grpc_url"]

    def answer(self) -> None:
        with Client(self.url, timeout_s=pace.seconds(CLEAN_S)) as client:
            answer = client.detect(head())
        assert (answer.release, answer.manifest_sha256) == (1, self.manifest_sha256)

    def until_right(self) -> None:
        """Ask until the answer is right; every other answer is an error with a clean status."""
        deadline = pace.seconds(BACK_S) + time.monotonic()
        while True:
            try:
                return self.answer()
            except (InputError, RuntimeError) as error:
                assert time.monotonic() < deadline, f"still failing: {error}; said: {self.lines}"  # noqa: PT017 - the next try decides
                time.sleep(0.2)

    def logged(self, words: str) -> None:
        deadline = pace.seconds(BACK_S) + time.monotonic()
        while not any(words in line for line in self.lines):
            assert time.monotonic() < deadline, f"{words!r} was never said: {self.lines}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("kept")
    bundle = make_bundle(folder / "bundle")
    command = [
        sys.executable,
        "-c",
        "from cmb_models.cli import main; main()",
        "server",
        "run",
        "--port",
        "0",
        "--bundle",
        str(bundle),
    ]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
        reader.start()
        found = Kept(folder / "serving-state", verify_manifest(bundle), lines)
        try:
            found.logged("serving; ")
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            reader.join()


def stub_of(pid: int, step: str) -> int:
    """The process of a step under tritonserver's process id, once the one before it has gone."""
    deadline = pace.seconds(BACK_S) + time.monotonic()
    while len(found := stubs_of(pid, step)) != 1:
        assert time.monotonic() < deadline, f"processes of {step}: {found}"
        time.sleep(0.1)
    return found[0]


def stubs_of(pid: int, step: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            group = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2])
        except OSError:
            continue
        if group == pid and command[0].endswith(STUB) and f"/{step}/" in command[1]:
            found.append(int(folder.name))
    return found


def killed_within_a_request(kept: Kept, kill: Callable[[], None], held: int) -> str:
    """Send a scan while the step `held` (a process id) is stopped, then kill; the client's error, "" for a right answer.

    A right answer is as good as a clean status: a step that is started again at once may still take the request.
    """
    got: list[str] = []

    def send() -> None:
        try:
            kept.answer()
            got.append("")
        except (InputError, RuntimeError) as error:
            got.append(str(error))

    os.kill(held, signal.SIGSTOP)
    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.7)
    assert sender.is_alive()
    kill()
    sender.join(CLEAN_S / 2)
    assert not sender.is_alive(), "the client hangs"
    return got[0]


@pytest.mark.parametrize("step", [PREPARE, UNET, CANDIDATES])
def test_killed_step_gives_a_clean_status_and_is_started_anew(kept, step):
    """Triton itself never starts it again and continues calling the model ready."""
    kept.until_right()
    server, stub = kept.pid, stub_of(kept.pid, step)
    report = killed_within_a_request(kept, lambda: os.kill(stub, signal.SIGKILL), stub)
    assert report == "" or "is not healthy" in report
    kept.logged(f"{step} of release 1; restarted")
    kept.until_right()
    assert kept.pid == server and stub_of(server, step) != stub


def test_killed_server_gives_a_clean_status_and_serves_again(kept):
    kept.until_right()
    server, url = kept.pid, kept.url
    report = killed_within_a_request(kept, lambda: os.kill(server, signal.SIGKILL), stub_of(server, PREPARE))
    assert "expected a server that answers, got no connection" in report
    kept.until_right()
    assert kept.url == url and kept.pid != server
    assert living_steps(kept.pid) == {(step, 1) for step in STEPS}
    kept.logged("was restarted")


def test_steps_without_a_process_are_dead():
    observed = ObservedState({}, {1: frozenset({UNET, PREPARE}), 2: frozenset({UNET})})
    assert dead_steps(observed, {(UNET, 1), (PREPARE, 1)}) == {(UNET, 2)}
    assert dead_steps(observed, {(UNET, 1), (PREPARE, 1), (UNET, 2), (CANDIDATES, 7)}) == set()
