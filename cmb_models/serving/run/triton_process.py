"""The bundled tritonserver as a context manager: started under the supervisor, awaited until ready, ended and cleaned up."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cmb_models.client.contract import ADMIN_KEY, PLAIN, SECURE
from cmb_models.errors import InputError
from cmb_models.machine import cores, require_linux
from cmb_models.serving.run.devices import without_cards
from cmb_models.serving.run.leftovers import recorded
from cmb_models.serving.run.settings import LOOPBACK, Security, local_address
from cmb_models.serving.triton.files import serving_files

BACKENDS = serving_files() / "backends"
SUPERVISOR = Path(__file__).parent / "supervisor.py"
EXIT_TIMEOUT_S = 4  # open HTTP keep-alive connections stall Triton's shutdown
MAX_TRIES = 5  # another process may take a port before it is bound
IN_USE = "already in use"  # in the server's log when a port is taken
REQUEST_LOG = "CMB_REQUEST_LOG"  # where the steps write one line per request (serving/triton/request_reporter.py)
PYTHON_FACTS = (
    "import json, sys, sysconfig as s; print(json.dumps({'site': s.get_path('purelib'),"
    " 'lib': s.get_config_var('LIBDIR'), 'version': '%d.%d' % sys.version_info[:2]}))"
)


@dataclass(frozen=True)
class Server:
    """A running server. URLs are HOST:PORT. pid: of tritonserver. shm_prefix: of its names in /dev/shm."""

    grpc_url: str
    http_url: str
    metrics_url: str
    pid: int
    log: Path
    shm_prefix: str
    tls: bool
    _supervisor: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """Its gRPC address with a scheme for TLS or plain, independent of the client's environment."""
        return f"{SECURE if self.tls else PLAIN}{self.grpc_url}"

    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._supervisor.poll() is None

    def keep(self) -> None:
        """From now on restart the server on the same ports, with nothing loaded, if it exits."""
        commands, _ = _pipes(self._supervisor)
        commands.write("keep\n")
        commands.flush()

    def restarted_pids(self) -> list[int]:
        """Process ids of restarts since the last call, oldest first; [] without a restart."""
        _, started = _pipes(self._supervisor)
        ready, _, _ = select.select([started], [], [], 0)
        return [int(pid) for pid in os.read(started.fileno(), 4096).split()] if ready else []


def _pipes(supervisor: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """Its stdin for commands, and its stdout with process ids."""
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    return supervisor.stdin, supervisor.stdout


class PortTaken(Exception):
    """Another process took a port after it was chosen."""


def default_environment() -> Path:
    """The server's Python environment: $CMB_SERVER_ENV, else `.venv-server` next to the running environment."""
    path = os.environ.get("CMB_SERVER_ENV")
    return Path(path) if path else Path(sys.prefix).parent / ".venv-server"


@contextlib.contextmanager
def running_server(
    repository: Path,
    server_env: Path | None = None,
    *,
    grpc_port: int = 0,
    log: Path | None = None,
    ready_s: float = 60,
    arguments: Sequence[str] = (),
    security: Security | None = None,
) -> Iterator[Server]:
    """Run a server on a model repository, with no model loaded; it is stopped on exit.

    Args:
        repository: The model repository.
        server_env: Python environment of the server; None for the default.
        grpc_port: 0 for a free port, as HTTP and metrics always use.
        log: File to append to; None for one next to the repository.
        ready_s: Seconds to wait until the server is ready.
        arguments: Additional arguments of tritonserver.
        security: None for loopback without an admin key.

    Raises:
        InputError: If the environment is missing or the port is in use.
        RuntimeError: If the server is not ready in time; with the end of its log.
    """
    require_linux("serving")
    security = security or Security()
    repository = Path(repository).resolve()
    repository.mkdir(parents=True, exist_ok=True)
    log = Path(log) if log else repository.parent / "server.log"
    with contextlib.ExitStack() as stack:
        server: Server | None = None
        for attempt in range(MAX_TRIES):
            try:
                environment = server_env or default_environment()
                started = _started(repository, environment, grpc_port, log, ready_s, arguments, security)
                server = stack.enter_context(started)
                break
            except PortTaken as error:
                if grpc_port and _taken(grpc_port):
                    raise InputError(
                        "port-in-use", f"port {grpc_port}", "a free port", "one in use", "stop what uses it or pass --port 0"
                    ) from error
                if attempt == MAX_TRIES - 1:
                    raise RuntimeError(f"no free ports for the server after {MAX_TRIES} tries; see {log}") from error
        # The last try raises.
        assert server is not None
        yield server


@contextlib.contextmanager
def _started(
    repository: Path, server_env: Path, grpc_port: int, log: Path, ready_s: float, arguments: Sequence[str], security: Security
) -> Iterator[Server]:
    facts = _environment_facts(server_env)
    token = uuid.uuid4().hex[:12]
    shm_prefix = f"cmb-{token}-"
    folder = Path(tempfile.mkdtemp(prefix="cmb-server-"))
    supervisor = None
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(recorded(log.parent, token, shm_prefix, folder))
        _copy_backends(facts, folder / "backends")
        ports = _free_ports(grpc_port)
        spec = {
            "command": [*_command(facts, repository, folder / "backends", ports, token), *arguments, *security.arguments()],
            # Next to the log unless the caller's environment sets it; empty for no request log.
            "environment": {REQUEST_LOG: str(log.resolve().with_name("requests.jsonl")), **_variables(facts, server_env)},
            "log": str(log),
            "shm_prefix": shm_prefix,
            "folder": str(folder),
            "grace_s": EXIT_TIMEOUT_S + 4,
        }
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        start = log.stat().st_size if log.exists() else 0
        supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(folder / "spec.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # only this process receives Ctrl-C, and then ends the server
        )
        pid = int(_pipes(supervisor)[1].readline())
        hosts = (local_address(security.host), LOOPBACK, local_address(security.metrics_host))
        grpc_url, http_url, metrics_url = (f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
        server = Server(grpc_url, http_url, metrics_url, pid, log, shm_prefix, bool(security.cert), supervisor)
        _wait_ready(server, token, start, ready_s)
        yield server
    finally:
        if supervisor is not None:
            commands, started = _pipes(supervisor)
            commands.close()
            supervisor.wait()
            started.close()
        shutil.rmtree(folder, ignore_errors=True)
        stack.close()


def _environment_facts(server_env: Path) -> dict:
    """Where the server environment keeps its packages and its interpreter's libraries."""
    python = server_env / "bin" / "python"
    remedy = "run `make setup`, or set CMB_SERVER_ENV to an environment made from serving/requirements.txt"
    if not python.exists():
        raise InputError("server-environment", server_env, "the server's Python environment", "none", remedy)
    facts = json.loads(subprocess.run([python, "-I", "-c", PYTHON_FACTS], capture_output=True, text=True, check=True).stdout)
    facts["triton"] = str(Path(facts["site"]) / "pytriton" / "tritonserver")
    if not Path(facts["triton"]).is_dir():
        raise InputError("server-environment", server_env, "an environment with the bundled tritonserver", "one without it", remedy)
    return facts


def _copy_backends(facts: dict, target: Path) -> None:
    """Python backend, its stub and the onnxruntime stand-in in one folder. Copied: Triton does not follow links here."""
    triton = Path(facts["triton"])
    shutil.copytree(triton / "backends" / "python", target / "python")
    shutil.copy2(triton / "python_backend_stubs" / facts["version"] / "triton_python_backend_stub", target / "python")
    shutil.copytree(BACKENDS / "onnxruntime", target / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))


def _command(facts: dict, repository: Path, backends: Path, ports: tuple[int, int, int], token: str) -> list[str]:
    grpc, web, metrics = ports
    return [
        f"{facts['triton']}/bin/tritonserver",
        f"--id={token}",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name=cmb-{token}-",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        *thread_arguments(),
        "--grpc-infer-allocation-pool-size=0",  # otherwise the messages of eight requests stay allocated
        f"--grpc-port={grpc}",
        f"--http-port={web}",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
    ]


def thread_arguments() -> list[str]:
    """Options that limit ONNX Runtime's backend to the cores that this process may use, instead of all cores of the machine.

    Set here, not in the models' configurations, since deployment may run on another machine. The CPU stand-in backend counts cores
    itself.
    """
    options = ("enable-global-threadpool=1", f"intra_op_thread_count={cores()}")
    return [f"--backend-config=onnxruntime,{option}" for option in options]


def _variables(facts: dict, server_env: Path) -> dict[str, str]:
    """The server's environment variables: its stub finds packages by the first python3 on PATH."""
    excluded = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", ADMIN_KEY)
    variables = {k: v for k, v in os.environ.items() if k not in excluded}
    variables["PATH"] = f"{(server_env / 'bin').absolute()}{os.pathsep}{variables.get('PATH', os.defpath)}"
    # The caller's own comes last: it may name the NVIDIA driver's folder.
    libraries = [f"{facts['site']}/nvidia_pytriton.libs", facts["lib"], os.environ.get("LD_LIBRARY_PATH")]
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    # The Python steps need little linear algebra; thread pools would only cost memory.
    variables |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return without_cards(variables)


def _free_ports(grpc_port: int) -> tuple[int, int, int]:
    """gRPC, HTTP and metrics ports; held open together so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        grpc, web, metrics = (s.getsockname()[1] for s in sockets)
    return grpc_port or grpc, web, metrics


def _taken(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def _wait_ready(server: Server, token: str, log_start: int, ready_s: float) -> None:
    """Wait until this server answers; its id is compared, since another server may hold the port.

    Uses HTTP, which is always on loopback without TLS and starts after gRPC.
    """
    deadline = time.monotonic() + ready_s
    while time.monotonic() < deadline and server.alive():
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            if json.loads(_http(server, "/v2"))["name"] == token and _http(server, "/v2/health/ready") == b"":
                return
        time.sleep(0.1)
    with open(server.log, "rb") as stream:
        stream.seek(log_start)
        text = stream.read().decode(errors="replace")
    if not server.alive() and IN_USE in text.lower():
        raise PortTaken(text[-500:])
    state = f"was not ready after {ready_s:g} s" if server.alive() else "ended while starting"
    raise RuntimeError(f"the server {state}; the end of {server.log}:\n" + "\n".join(text.splitlines()[-15:]))


def _http(server: Server, path: str) -> bytes:
    """The body of a 200. Raises OSError otherwise."""
    connection = http.client.HTTPConnection(server.http_url, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})  # open connections stall Triton's shutdown
        response = connection.getresponse()
        if response.status != 200:
            raise ConnectionError(f"{path}: {response.status}")
        return response.read()
