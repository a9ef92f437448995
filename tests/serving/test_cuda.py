"""A release on a CUDA device, in process and through the server. On a machine without one the same bodies run on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest
import torch

from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc import Client
from cmb_models.io.nifti import read_volume
from cmb_models.release.base import base_bundle
from cmb_models.release.bundle import CNN_FILE, CNN_INPUT, CNN_OUTPUT, GOLDEN_SCAN, UNET_FILE, UNET_INPUT, UNET_OUTPUT, load_bundle
from cmb_models.runtime.accelerator import DeviceFailed
from cmb_models.runtime.cpu import open_onnx
from cmb_models.runtime.cuda_torch import TorchNetwork
from cmb_models.runtime.device import VARIABLE, open_on_cuda
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.deploy.golden import run_golden
from cmb_models.serving.run.devices import step_devices
from cmb_models.serving.run.triton_process import running_server
from tests.support.bundles import altered, find_nothing
from tests.support.imports import ROOT

STEPS = ("cmb_cnn", "cmb_prepare", "cmb_unet")  # that can use a device
BUNDLE = base_bundle()  # operators of trained networks; those of tests.support.bundles do not run on CUDA
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
BACK_S = 60
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
# Prints the code of the error.
OPEN = f"""
from cmb_models.errors import InputError
from cmb_models.release.bundle import BundleDetector
try:
    BundleDetector({str(BUNDLE)!r}, device="cuda")
except InputError as error:
    print(error.code)
"""
# The caching allocator asks for blocks of this size.
BLOCK = 20 * 2**20

on_devices = pytest.mark.parametrize("device", DEVICES)


@cache
def why_no_cuda() -> str:
    """Why no CUDA device works here; "" if one does."""
    try:
        open_on_cuda(BUNDLE / CNN_FILE, CNN_INPUT, CNN_OUTPUT)
    except DeviceFailed as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def _needs_cuda(request):
    if request.node.get_closest_marker("cuda") and why_no_cuda():
        pytest.skip(f"no CUDA device: {why_no_cuda()}")


def card(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@on_devices
@pytest.mark.parametrize(
    ("file", "names", "array"),
    [
        (UNET_FILE, (UNET_INPUT, UNET_OUTPUT), noise(1, 1, 48, 40, 24)),
        (CNN_FILE, (CNN_INPUT, CNN_OUTPUT), noise(60, 1, 20, 20, 10)),
    ],
    ids=["unet", "cnn"],
)
def test_a_network_answers_as_on_the_cpu(device, file, names, array):
    on_cpu = open_onnx(BUNDLE / file, *names)(array)
    network = open_on_cuda(BUNDLE / file, *names) if device == "cuda" else TorchNetwork(BUNDLE / file, "cpu")
    np.testing.assert_allclose(network(array), on_cpu, atol=1e-4)


def limited(network: TorchNetwork, device: str, array: np.ndarray, monkeypatch) -> list[tuple[int, ...]]:
    """Let the network's memory be too small for `array`; the shapes that it is then run on are appended to the result."""
    run, shapes = network._run, []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(torch.from_numpy(array).to(device))
        needed = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        limit = (before + 0.5 * needed + BLOCK) / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit)

    def counted(part: torch.Tensor) -> torch.Tensor:
        if device == "cpu" and part.numel() >= array.size:
            raise torch.OutOfMemoryError("too large for this test")
        result = run(part)
        shapes.append(tuple(part.shape))
        return result

    monkeypatch.setattr(network, "_run", counted)
    return shapes


@on_devices
def test_a_volume_that_does_not_fit_is_run_in_parts(device, monkeypatch):
    network = TorchNetwork(BUNDLE / UNET_FILE, device)
    array = noise(1, 1, 384, 256, 96) if device == "cuda" else noise(1, 1, 256, 24, 16)
    whole = network(array)
    shapes = limited(network, device, array, monkeypatch)
    try:
        np.testing.assert_allclose(network(array), whole, atol=1e-5)
    finally:
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(shapes) > 1 and all(np.prod(shape) < array.size for shape in shapes)


@pytest.mark.serving
@on_devices
def test_the_golden_scan_by_a_server_that_is_killed(device, tmp_path, monkeypatch):
    """The bundle's answer within 1e-4 (SCORE_TOLERANCE) before a kill -9 and after the restart; the metric names the card."""
    monkeypatch.setenv(VARIABLE, device)
    with running_server(tmp_path / "repository", log=tmp_path / "server.log") as server:
        server.keep()
        pid = server.pid
        for kills in (1, 0):
            deploy_bundle(BUNDLE, 1, tmp_path / "repository", server.grpc_url)
            run_golden(server.grpc_url, DETECTOR, load_bundle(BUNDLE), 1)
            assert devices(server) == [f"{model} of release 1 on {card(device)}" for model in STEPS]
            if kills:
                os.kill(pid, signal.SIGKILL)
                pid = restarted(server)


def devices(server) -> list[str]:
    """Each step's line of the metric, which Triton renders once per second."""
    deadline = time.monotonic() + 5
    while len(lines := step_devices(server.metrics_url)) < len(STEPS) and time.monotonic() < deadline:
        time.sleep(0.2)
    return lines


def restarted(server) -> int:
    """The process id of the restart, once its gRPC endpoint answers."""
    deadline, pids = time.monotonic() + BACK_S, []
    while time.monotonic() < deadline:
        pids += server.restarted_pids()
        try:
            if pids:
                step_devices(server.metrics_url)
                return pids[-1]
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no restart within {BACK_S} s")


@pytest.mark.serving
@on_devices
def test_a_scan_without_candidates_by_a_server(device, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, device)
    bundle = altered(BUNDLE, tmp_path / "bundle", find_nothing)
    with running_server(tmp_path / "repository", log=tmp_path / "server.log") as server:
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        with Client(server.grpc_url, timeout_s=60) as client:
            answer = client.detect(read_volume(bundle / GOLDEN_SCAN))
        assert devices(server)[0].endswith(f"on {card(device)}")
    assert (len(answer.candidates), len(answer.detections)) == (0, 0)


@on_devices
def test_a_required_device_that_is_hidden(device, tmp_path):
    done = python(OPEN)
    assert done.stdout.split() == ["device-failed"], done.stderr
    detect = ["detect", str(BUNDLE / GOLDEN_SCAN), "--bundle", str(BUNDLE), "--device", "cuda", "--out", str(tmp_path)]
    done = python("from cmb_models.cli import main; main()", *detect)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "a CUDA device that works" in done.stderr, done.stderr


@pytest.mark.serving
@on_devices
def test_auto_uses_the_cpu_where_the_device_is_hidden(device, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "auto")
    for name, value in HIDDEN.items():
        monkeypatch.setenv(name, value)
    with running_server(tmp_path / "repository", log=tmp_path / "server.log") as server:
        deploy_bundle(BUNDLE, 1, tmp_path / "repository", server.grpc_url)
        run_golden(server.grpc_url, DETECTOR, load_bundle(BUNDLE), 1)
        lines = devices(server)
    assert all(" on cpu (" in line for line in lines) and len(lines) == len(STEPS), lines


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that sees no CUDA device."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | HIDDEN, text=True, capture_output=True, timeout=120)
