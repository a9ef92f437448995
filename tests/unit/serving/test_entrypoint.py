"""What the image starts with: variables to arguments, and what must not start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cmb_models.serving.run.entrypoint import ready, triton_arguments
from cmb_models.serving.run.settings import EXPLICIT, VARIABLES, read_settings
from tests.support.refused import refused

KEY = "0123456789abcdef"


@pytest.fixture
def variables(tmp_path):
    """Those of a loopback server in immutable mode, with files to point at."""
    for name in ("tritonserver", "cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).write_text("x")
    (tmp_path / "models").mkdir()
    return {"CMB_TRITON": str(tmp_path / "tritonserver"), "CMB_REPOSITORY": str(tmp_path / "models")}


def tls(tmp_path) -> dict[str, str]:
    return {"CMB_SERVER_CERT": str(tmp_path / "cert.pem"), "CMB_SERVER_KEY": str(tmp_path / "key.pem")}


def test_alone_it_is_immutable_on_loopback_and_what_is_guarded_is_shut(variables):
    arguments = triton_arguments(read_settings(variables))
    assert arguments[0] == variables["CMB_TRITON"]
    assert "--model-control-mode=none" in arguments
    assert {f"--{s}-address=127.0.0.1" for s in ("grpc", "http", "metrics")} <= set(arguments)
    assert {"--grpc-port=8001", "--http-port=8000", "--metrics-port=8002", "--exit-timeout-secs=30"} <= set(arguments)
    assert not [a for a in arguments if "ssl" in a]
    first, second = (
        next(a for a in triton_arguments(read_settings(variables)) if a.startswith("--grpc-restricted")) for _ in range(2)
    )
    assert "model-repository,shared-memory,trace,logging:admin-key=" in first
    assert first != second  # another key, that nobody knows


def test_explicit_mode_with_tls_and_a_key_from_a_file(variables, tmp_path):
    (tmp_path / "admin").write_text(f"{KEY}\n")
    given = tls(tmp_path) | {"CMB_MODE": EXPLICIT, "CMB_ADDRESS": "0.0.0.0", "CMB_ADMIN_KEY_FILE": str(tmp_path / "admin")}
    arguments = triton_arguments(read_settings(variables | given | {"CMB_SERVER_CLIENT_CA": str(tmp_path / "ca.pem")}))
    assert {
        "--model-control-mode=explicit",
        "--grpc-address=0.0.0.0",
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={tmp_path}/cert.pem",
        f"--grpc-server-key={tmp_path}/key.pem",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-root-cert={tmp_path}/ca.pem",
        f"--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:admin-key={KEY}",
        "--http-restricted-api=inference,metadata,model-config,statistics,model-repository,shared-memory,trace,logging"
        f":admin-key={KEY}",
    } <= set(arguments)


def test_a_mesh_may_stand_for_tls(variables):
    arguments = triton_arguments(read_settings(variables | {"CMB_ADDRESS": "0.0.0.0", "CMB_INSECURE_NETWORK": "1"}))
    assert "--grpc-address=0.0.0.0" in arguments


@pytest.mark.parametrize(
    ("given", "code", "case", "got"),
    [
        ({"CMB_ADDRESS": "0.0.0.0"}, "tls-required", "CMB_ADDRESS", "none"),
        ({"CMB_ADDRESS": "10.0.0.7", "CMB_INSECURE_NETWORK": "yes"}, "tls-required", "CMB_ADDRESS", "none"),
        ({"CMB_ADDRESS": "localhost"}, "setting-invalid", "CMB_ADDRESS", "localhost"),
        ({"CMB_MODE": "poll"}, "setting-invalid", "CMB_MODE", "poll"),
        ({"CMB_MODE": EXPLICIT}, "admin-key-unusable", "CMB_ADMIN_KEY", "none"),
        ({"CMB_ADMIN_KEY": "short"}, "admin-key-unusable", "CMB_ADMIN_KEY", "^5 "),
        ({"CMB_ADMIN_KEY": "with,comma=and:colon"}, "admin-key-unusable", "CMB_ADMIN_KEY", "^20 "),
        ({"CMB_ADMIN_KEY": KEY, "CMB_ADMIN_KEY_FILE": "/dev/null"}, "options-conflict", "CMB_ADMIN_KEY", "both"),
        ({"CMB_ADMIN_KEY_FILE": "/no/such/file"}, "file-not-readable", "CMB_ADMIN_KEY_FILE", "/no/such/file"),
        ({"CMB_SERVER_CERT": "/dev/null"}, "tls-incomplete", "", "CMB_SERVER_CERT"),
        ({"CMB_SERVER_CLIENT_CA": "/dev/null"}, "tls-incomplete", "", "CMB_SERVER_CLIENT_CA"),
        ({"CMB_SERVER_KEY": "/no/such/key"}, "file-not-readable", "CMB_SERVER_KEY", "/no/such/key"),
        ({"CMB_GRPC_PORT": "70000"}, "setting-invalid", "CMB_GRPC_PORT", "70000"),
        ({"CMB_EXIT_TIMEOUT_S": "-1"}, "setting-invalid", "CMB_EXIT_TIMEOUT_S", "-1"),
        ({"CMB_REPOSITORY": "/no/such/folder"}, "setting-invalid", "CMB_REPOSITORY", "/no/such/folder"),
        ({"CMB_TRITON": "/no/such/program"}, "file-not-readable", "CMB_TRITON", "/no/such/program"),
    ],
)
def test_what_is_impossible_or_unsafe_does_not_start(variables, given, code, case, got):
    with refused(code, case=case, got=got):
        read_settings(variables | given)


def test_as_a_program_it_says_why_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "cmb_models.serving.run.entrypoint"],
        env={"CMB_ADDRESS": "0.0.0.0"},
        capture_output=True,
        text=True,
        cwd=".",
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: CMB_ADDRESS 0.0.0.0: expected TLS")


def test_health_of_nothing_is_not_ready():
    assert not ready({"CMB_HTTP_PORT": "9"}, timeout_s=2)


def test_every_variable_is_explained():
    assert all(name.startswith("CMB_") and words for name, (_, words) in VARIABLES.items())


def test_served_networks_get_the_cores_of_the_container(variables, monkeypatch):
    """ONNX Runtime would count the host's."""
    monkeypatch.setenv("CMB_CORES", "1")
    arguments = triton_arguments(read_settings(variables))
    assert "--backend-config=onnxruntime,enable-global-threadpool=1" in arguments
    assert "--backend-config=onnxruntime,intra_op_thread_count=1" in arguments


def test_impossible_cores_are_refused_before_the_server_starts(variables, monkeypatch):
    monkeypatch.setenv("CMB_CORES", "-1")
    with refused("setting-invalid"):
        triton_arguments(read_settings(variables))
