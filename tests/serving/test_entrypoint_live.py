"""The image's entry for real, with the bundled tritonserver in the NGC one's place: an immutable, sealed repository, TLS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cmb_models.client.contract import AFFINE, DETECTOR, OUTPUTS, VOLUME, unpack
from cmb_models.io.nifti import read_volume
from cmb_models.release.bundle import GOLDEN_SCAN, load_bundle
from cmb_models.serving.deploy.checksums import copy_verified, verify
from cmb_models.serving.deploy.desired import desired_bundle
from cmb_models.serving.deploy.export import write_immutable
from cmb_models.serving.deploy.golden import check_golden
from cmb_models.serving.run import triton_process as bundled
from cmb_models.serving.run.entrypoint import ready
from tests.support.bundles import make_bundle
from tests.support.certificates import make_root

pytestmark = pytest.mark.serving
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Environment variables of a server that the entry point became, its process, and the bundle it serves as release 4."""
    folder = tmp_path_factory.mktemp("image")
    bundle = load_bundle(make_bundle(folder / "bundle"))
    write_immutable(folder / "written", desired_bundle(bundle.path, 4, {}))
    digest = verify(folder / "written")
    copy_verified(folder / "written", folder / "models", digest)
    for path in sorted((folder / "models").rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    facts = bundled._environment_facts(bundled.default_environment())
    bundled._copy_backends(facts, folder / "backends")
    root = make_root(folder / "tls")  # signed by itself: the server's certificate and what clients trust
    grpc_port, http_port, metrics_port = bundled._free_ports(0)
    environ = bundled._variables(facts, bundled.default_environment()) | {
        "CMB_TRITON": f"{facts['triton']}/bin/tritonserver",
        "CMB_BACKENDS": str(folder / "backends"),
        "CMB_REPOSITORY": str(folder / "models"),
        "CMB_ADDRESS": "0.0.0.0",
        "CMB_GRPC_PORT": str(grpc_port),
        "CMB_HTTP_PORT": str(http_port),
        "CMB_METRICS_PORT": str(metrics_port),
        "CMB_SERVER_CERT": str(root.cert),
        "CMB_SERVER_KEY": str(root.key),
        "CMB_EXIT_TIMEOUT_S": "4",
        "PYTHONPATH": str(ROOT),  # as the image does
    }
    with open(folder / "log", "wb") as log:
        command = [sys.executable, "-m", "cmb_models.serving.run.entrypoint", "--allow-gpu-metrics=false"]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while not ready(environ) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            assert ready(environ), (folder / "log").read_text()[-3000:]
            yield environ, process, bundle
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def client(running):
    environ, _, _ = running
    url = f"127.0.0.1:{environ['CMB_GRPC_PORT']}"
    with grpc.InferenceServerClient(url, ssl=True, root_certificates=environ["CMB_SERVER_CERT"]) as made:
        yield made


def test_golden_scan_through_tls(running, client):
    _, _, bundle = running
    scan = read_volume(bundle.path / GOLDEN_SCAN)
    arrays = {VOLUME: np.ascontiguousarray(scan.data, dtype=np.float32), AFFINE: scan.affine}
    inputs = [grpc.InferInput(t.name, a.shape, np_to_triton_dtype(t.dtype)) for t, a in arrays.items()]
    for tensor, array in zip(inputs, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    result = client.infer(DETECTOR, inputs, client_timeout=60)
    check_golden(unpack({t.name: result.as_numpy(t.name) for t in OUTPUTS}), bundle, 4)


def test_who_speaks_no_tls_or_has_no_key_gets_nothing(running, client):
    environ, _, _ = running
    with grpc.InferenceServerClient(f"127.0.0.1:{environ['CMB_GRPC_PORT']}") as plain, pytest.raises(InferenceServerException):
        plain.get_server_metadata(client_timeout=5)
    for call in (lambda: client.unload_model(DETECTOR), lambda: client.register_system_shared_memory("x", "/x", 8)):
        with pytest.raises(InferenceServerException, match="restricted"):
            call()
    assert client.is_model_ready(DETECTOR)


def test_http_is_for_health_alone(running):
    environ, _, _ = running
    base = f"http://127.0.0.1:{environ['CMB_HTTP_PORT']}/v2"
    for path in ("health/live", "health/ready"):
        assert urllib.request.urlopen(f"{base}/{path}", timeout=5).status == 200
    for path in ("", f"/models/{DETECTOR}", f"/models/{DETECTOR}/config", "/models/stats"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{base}{path}", timeout=5)


def test_metrics_that_alerts_and_scaling_read_are_there(running):
    """Those of Triton itself, by the names that deploy/ has."""
    environ, _, _ = running
    text = urllib.request.urlopen(f"http://127.0.0.1:{environ['CMB_METRICS_PORT']}/metrics", timeout=5).read().decode()
    files = "".join(p.read_text() for p in (ROOT / "deploy" / "kubernetes" / "components").rglob("*.yaml"))
    read = set(re.findall(r"\bnv_\w+", files))
    assert read >= {"nv_inference_queue_duration_us", "nv_inference_request_success"}
    assert read <= set(re.findall(r"^(nv_\w+)\{", text, re.MULTILINE))
    assert re.search(r'^nv_inference_request_success\{model="cmb_detector"', text, re.MULTILINE)


def test_repository_is_left_as_it_was_and_a_stop_signal_ends_the_server(running):
    environ, process, _ = running
    command = [sys.executable, "-m", "cmb_models.serving.run.entrypoint", "health"]
    assert subprocess.run(command, env=environ, cwd=ROOT).returncode == 0
    assert (
        subprocess.run(
            [sys.executable, "-m", "cmb_models.serving.deploy.checksums", environ["CMB_REPOSITORY"]], cwd=ROOT
        ).returncode
        == 0
    )
    assert os.path.realpath(f"/proc/{process.pid}/exe") == os.path.realpath(environ["CMB_TRITON"])  # no shell, no parent between
    process.terminate()
    assert process.wait(30) == 0
    assert subprocess.run(command, env=environ, cwd=ROOT).returncode == 1
