"""The device of a live server's networks: which it is, and what is said where it cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cmb_models.runtime.device import VARIABLE, open_on_cuda
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.deploy.status import _devices, server_status
from cmb_models.serving.run import triton_process
from cmb_models.serving.run.devices import set_device, step_devices, without_cards
from cmb_models.serving.run.state_dir import announced, running_metrics, running_url
from cmb_models.serving.run.triton_process import running_server
from tests.support.bundles import make_bundle
from tests.support.refused import refused

CMB = str(Path(sys.executable).parent / "cmb")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


def has_cuda(bundle) -> bool:
    try:
        open_on_cuda(bundle / "unet.onnx", "image", "heatmap")
    except Exception:
        return False
    return True


@pytest.mark.serving
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_server_reports_the_device_of_each_step(bundle, tmp_path, monkeypatch, device):
    if device == "auto" and has_cuda(bundle):
        pytest.skip("a CUDA device")
    monkeypatch.setenv(VARIABLE, device)
    reason = "" if device == "cpu" else " (no NVIDIA driver)"
    expected = [f"{model} of release 1 on cpu{reason}" for model in ("cmb_cnn", "cmb_prepare", "cmb_unet")]
    with running_server(tmp_path / "repository", log=tmp_path / "server.log") as server, announced(tmp_path, server):
        assert step_devices(server.metrics_url) == []
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        assert step_devices(server.metrics_url) == expected
        url = running_url(tmp_path)
        assert list(server_status(url, {}, running_metrics(tmp_path, url)).devices) == expected
        assert running_metrics(tmp_path, "elsewhere:8001") is None
    assert f"cmb_unet 1: device cpu{reason}" in (tmp_path / "server.log").read_text()
    assert running_metrics(tmp_path, url) is None  # no server runs


def test_metrics_that_cannot_be_read_do_not_stop_the_status():
    assert _devices("127.0.0.1:9") == () == _devices(None)


def test_a_server_on_the_cpu_sees_no_card():
    assert without_cards({VARIABLE: "cpu"})["CUDA_VISIBLE_DEVICES"] == ""
    for device in ({}, {VARIABLE: "auto"}, {VARIABLE: "cuda"}):
        assert "CUDA_VISIBLE_DEVICES" not in without_cards(device)


@pytest.mark.serving
def test_a_device_that_is_required_and_missing(bundle, tmp_path):
    if has_cuda(bundle):
        pytest.skip("a CUDA device")
    command = [CMB, "server", "run", "--port", "0", "--bundle", str(bundle), "--device", "cuda"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "a CUDA device that works" in done.stderr and "no NVIDIA driver" in done.stderr and "Traceback" not in done.stderr


def test_devices_that_do_not_exist(monkeypatch):
    with refused("device-unknown", case="--device"):
        set_device("gpu0")
    monkeypatch.setenv(VARIABLE, "tpu")
    with refused("device-unknown", case=VARIABLE):
        set_device(None)


def test_the_server_finds_a_driver_that_the_caller_names(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/driver")
    variables = triton_process._variables({"site": "/env", "lib": "/python"}, Path("/env"))
    assert variables["LD_LIBRARY_PATH"] == "/env/nvidia_pytriton.libs:/python:/opt/driver"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert triton_process._variables({"site": "/env", "lib": "/python"}, Path("/env"))["LD_LIBRARY_PATH"] == (
        "/env/nvidia_pytriton.libs:/python"
    )
