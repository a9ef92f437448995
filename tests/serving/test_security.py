"""Who reaches a server and what it lets them do: refused in words before it starts, and by the running server."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from cmb_models.client.connection import Tls, admin_headers, channel, connect
from cmb_models.client.contract import AFFINE, DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.client.kserve import Service
from cmb_models.client.shared_memory import shared_request
from cmb_models.errors import InputError
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.settings import Security, is_loopback
from cmb_models.serving.run.state_dir import KEY_FILE, state_key, stored_key
from cmb_models.serving.run.triton_process import running_server
from tests.support.bundles import head, make_bundle
from tests.support.certificates import make_certificate, make_root
from tests.support.refused import refused

pytestmark = pytest.mark.serving
KEY = "a-key-for-tests-of-some-length"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    with running_server(folder / "repository", security=Security(admin_key=KEY)) as server:
        yield server


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    root = make_root(folder / "root")
    return root, make_certificate(folder / "server", root)


def test_running_server_loads_for_the_keys_holders_alone(keyed):
    client = connect(keyed.grpc_url)
    with pytest.raises(InferenceServerException, match="restricted"):
        client.load_model("cmb_prepare", config='{"backend": "python"}')
    with pytest.raises(InferenceServerException, match="restricted"):
        client.load_model("cmb_prepare", headers=admin_headers("a-key-of-another-server"))
    with pytest.raises(InferenceServerException, match=r"failed to load|not found"):
        client.load_model("cmb_prepare", headers=admin_headers(KEY))


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.unload_model("cmb_prepare"),
        lambda c: c.get_model_repository_index(),
        lambda c: c.register_system_shared_memory("mine", "/cmb-mine", 8),
        lambda c: c.get_system_shared_memory_status(),
        lambda c: c.update_trace_settings(settings={"trace_file": "/tmp/trace"}),
        lambda c: c.update_log_settings({"log_verbose_level": 9}),
    ],
    ids=["unload", "index", "shared memory", "shared memory status", "trace", "log"],
)
def test_calls_that_change_a_server_are_restricted_over_grpc(keyed, call):
    with pytest.raises(InferenceServerException, match="restricted"):
        call(connect(keyed.grpc_url))


def test_shared_memory_is_for_the_keys_holders_too(keyed, monkeypatch):
    monkeypatch.delenv("CMB_ADMIN_KEY", raising=False)
    arrays, client, service = {AFFINE: np.eye(4)}, connect(keyed.grpc_url), Service(channel(keyed.grpc_url))
    with refused("admin-key-wrong"), shared_request(service, DETECTOR, arrays, keyed.grpc_url, 10):
        pass
    monkeypatch.setenv("CMB_ADMIN_KEY", KEY)
    with shared_request(service, DETECTOR, arrays, keyed.grpc_url, 10):
        (region,) = client.get_system_shared_memory_status(headers=admin_headers()).regions.values()
        assert region.byte_size == 128
    assert not client.get_system_shared_memory_status(headers=admin_headers()).regions


HTTP_CALLS = ("repository/models/m/load", "repository/index", "logging", "trace/setting", "systemsharedmemory/status")


@pytest.mark.parametrize("path", HTTP_CALLS)
def test_and_over_http(keyed, path):
    method = "GET" if "status" in path else "POST"
    request = urllib.request.Request(f"http://{keyed.http_url}/v2/{path}", b"{}" if method == "POST" else None, method=method)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code == 403
    assert "restricted" in json.loads(refusal.value.read())["error"]


def test_key_is_not_in_the_log(keyed):
    assert "Started GRPCInferenceService" in keyed.log.read_text(errors="replace")
    assert KEY not in keyed.log.read_text(errors="replace")


def test_server_on_a_network_needs_tls_and_a_key(pki, tmp_path):
    root, own = pki
    with pytest.raises(InputError, match=r"--host 0.0.0.0: expected TLS on an address .*; set --tls-cert and --tls-key"):
        Security("0.0.0.0", KEY)
    with refused("admin-key-missing"):
        Security("0.0.0.0", None, own.cert, own.key)
    with refused("tls-incomplete", got="--tls-cert"):
        Security(cert=own.cert)
    with refused("tls-incomplete", got="--tls-client-ca"):
        Security(client_ca=root.cert)
    with refused("file-not-readable", case="--tls-key", got=r"none\.pem"):
        Security("0.0.0.0", KEY, own.cert, tmp_path / "none.pem")
    for weak in ("short", "sixteen letters, and a space"):
        with refused("admin-key-unusable"):
            Security(admin_key=weak)
    with refused("setting-invalid"):
        Security("no.such.name.invalid", KEY)
    assert [is_loopback(h) for h in ("127.0.0.1", "127.8.8.8", "localhost")] == [True, True, True]
    assert [is_loopback(h) for h in ("0.0.0.0", "10.1.2.3")] == [False, False]


def test_server_on_a_network_is_reached_with_tls_alone_and_http_gives_no_answers(pki, tmp_path):
    root, own = pki
    security = Security("0.0.0.0", KEY, own.cert, own.key, root.cert)
    client_files = Tls(root.cert, own.cert, own.key)
    with running_server(tmp_path / "repository", security=security) as server:
        assert Client(server.grpc_url, tls=client_files).serving() is None
        with refused("tls-refused"):
            Client(server.grpc_url, tls=Tls(root.cert)).serving()
        assert urllib.request.urlopen(f"http://{server.http_url}/v2/health/ready", timeout=10).status == 200
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"http://{server.http_url}/v2/models/cmb_detector/infer", b"{}", timeout=10)
        assert refusal.value.code == 403
        listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
        ports = {name: int(url.rsplit(":", 1)[1]) for name, url in (("http", server.http_url), ("metrics", server.metrics_url))}
        for name, port in ports.items():
            assert f"0100007F:{port:04X}" in listening and f"00000000:{port:04X}" not in listening, name


def test_state_folder_keeps_a_key_for_its_owner(tmp_path, monkeypatch):
    monkeypatch.delenv("CMB_ADMIN_KEY", raising=False)
    state = tmp_path / "state"
    assert stored_key(state) is None
    key = state_key(state)
    assert len(key) >= 32
    assert state_key(state) == stored_key(state) == key
    assert stat.S_IMODE((state / KEY_FILE).stat().st_mode) == 0o600
    assert [p.name for p in state.iterdir()] == [KEY_FILE]
    (state / KEY_FILE).chmod(0o644)
    with refused("key-exposed"):
        stored_key(state)
    monkeypatch.setenv("CMB_ADMIN_KEY", KEY)
    assert state_key(state) == KEY


def test_serve_command_restricts_and_deploys_with_its_own_key(tmp_path, monkeypatch):
    monkeypatch.delenv("CMB_ADMIN_KEY", raising=False)
    bundle = make_bundle(tmp_path / "bundle")
    command = [str(Path(sys.executable).parent / "cmb"), "server", "run", "--port", "0", "--bundle", str(bundle)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("serving"):
                    break
            assert "switched to release 1" in "".join(lines), lines
            url = json.loads((tmp_path / "serving-state" / "server.json").read_text())["grpc_url"]
            with Client(url) as client:
                assert client.detect(head()).release == 1
            with refused("server-refused-release"):
                deploy_bundle(make_bundle(tmp_path / "two", threshold=0.5), 2, tmp_path / "serving-state" / "repository", url)
            monkeypatch.setenv("CMB_ADMIN_KEY", stored_key(tmp_path / "serving-state"))
            assert connect(url).get_model_repository_index(headers=admin_headers()).models
        finally:
            process.terminate()
            process.communicate(timeout=20)
