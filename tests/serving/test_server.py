"""The bundled server starts on free ports, says what is wrong when it cannot, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmb_models.client.grpc import Client
from cmb_models.serving.run.leftovers import remove_leftovers
from cmb_models.serving.run.state_dir import announced, only_one, running_url
from cmb_models.serving.run.triton_process import running_server
from tests.support import pace
from tests.support.bundles import head, make_bundle
from tests.support.refused import refused

pytestmark = pytest.mark.serving
GONE_S = 20


def in_shared_memory(prefix: str) -> list[str]:
    return [p.name for p in Path("/dev/shm").glob(f"{prefix}*")]


def in_group(group: int) -> list[int]:
    """Processes of a process group, the dead but unreaped ones left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def until_gone(pid: int, prefix: str) -> tuple[list[int], list[str]]:
    deadline = pace.seconds(GONE_S) + time.monotonic()
    while time.monotonic() < deadline and (in_group(pid) or in_shared_memory(prefix)):
        time.sleep(0.1)
    return in_group(pid), in_shared_memory(prefix)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serve_command_ends_without_a_trace(bundle, tmp_path, how):
    command = [str(Path(sys.executable).parent / "cmb"), "server", "run", "--port", "0", "--bundle", str(bundle)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving"):
                break
        assert "switched to release 1" in "".join(lines)
        state = json.loads((tmp_path / "serving-state" / "server.json").read_text())
        names = {n.split("-")[1] for n in os.listdir("/dev/shm") if n.startswith("cmb-")}
        prefix = next(f"cmb-{n}-" for n in names if n.encode() in Path(f"/proc/{state['pid']}/cmdline").read_bytes())
        with Client(running_url(tmp_path / "serving-state")) as client:
            assert client.detect(head()).release == 1
        assert len(in_group(state["pid"])) == 6  # tritonserver and the stubs of five steps
        assert in_shared_memory(prefix)
        process.send_signal(how)
        process.communicate(timeout=pace.seconds(GONE_S))
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    assert until_gone(state["pid"], prefix) == ([], [])
    assert how == signal.SIGKILL or not (tmp_path / "serving-state" / "server.json").exists()


RUN = """
import sys, time
from pathlib import Path
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
with running_server(Path(sys.argv[1])) as server:
    deploy_bundle(Path(sys.argv[2]), 1, Path(sys.argv[1]), server.grpc_url)
    print(server.pid, server.shm_prefix, flush=True)
    time.sleep(60)
"""


def test_what_servers_left_that_were_killed_with_their_supervisor_goes_with_the_next_start(bundle, tmp_path):
    """kill -9 of the command, the supervisor and the server at once, as when memory is short or a container is killed."""
    repository = tmp_path / "state/repository"
    with subprocess.Popen([sys.executable, "-c", RUN, str(repository), str(bundle)], stdout=subprocess.PIPE, text=True) as process:
        pid, prefix = process.stdout.readline().split()
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        (record,) = (tmp_path / "state").glob(".server-*.json")
        temporary = Path(json.loads(record.read_text())["folder"])
        remove_leftovers(tmp_path / "state")
        assert in_shared_memory(prefix) and temporary.is_dir() and record.exists(), "what a living server uses stays"
        for kill in (lambda: os.kill(supervisor, signal.SIGKILL), process.kill, lambda: os.killpg(int(pid), signal.SIGKILL)):
            kill()
    deadline = pace.seconds(GONE_S) + time.monotonic()
    while time.monotonic() < deadline and in_group(int(pid)):
        time.sleep(0.1)
    assert in_shared_memory(prefix) and temporary.is_dir(), "this test needs a server that leaves something"
    with running_server(repository):
        assert in_shared_memory(prefix) == [] and not temporary.exists() and not record.exists()
    assert list((tmp_path / "state").glob(".server-*")) == []


def test_an_error_inside_the_block_ends_the_server_too(tmp_path):
    with pytest.raises(ZeroDivisionError), running_server(tmp_path / "repository") as server:
        assert in_group(server.pid)
        raise ZeroDivisionError
    assert (in_group(server.pid), in_shared_memory(server.shm_prefix)) == ([], [])


def test_two_servers_run_side_by_side(served, tmp_path):
    with running_server(tmp_path / "repository") as other, Client(other.grpc_url) as client:
        assert other.grpc_url != served.server.grpc_url
        assert client.serving() is None
        assert served.client.serving() is not None


def test_missing_environment_names_the_remedy(tmp_path):
    with refused("server-environment"), running_server(tmp_path / "repository", tmp_path / "no-env"):
        pass


def test_taken_port_is_named(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with refused("port-in-use", case=f"port {port}$"), running_server(tmp_path / "repository", grpc_port=port):
            pass


def test_server_that_is_never_ready_is_killed_and_its_log_shown(tmp_path):
    with pytest.raises(RuntimeError, match="was not ready after 0 s"), running_server(tmp_path / "repository", ready_s=0):
        pass


def test_one_state_folder_holds_one_server(served, tmp_path):
    with only_one(tmp_path), refused("folder-in-use"), only_one(tmp_path):
        pass
    with announced(tmp_path, served.server):
        assert running_url(tmp_path) == f"grpc://{served.server.grpc_url}"
    with refused("server-not-running"):
        running_url(tmp_path)
