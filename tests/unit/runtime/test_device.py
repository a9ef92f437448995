"""Choosing a device: what works is used, what fails is named, and `auto` continues with the CPU."""

from __future__ import annotations

import builtins
import logging

import numpy as np
import pytest
import torch

from cmb_models.errors import InputError
from cmb_models.release.bundle import UNET_FILE, UNET_INPUT, UNET_OUTPUT
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit
from cmb_models.runtime.cuda_torch import TorchNetwork
from cmb_models.runtime.device import is_of_device, open_arrays, open_network
from tests.support.refused import refused

IMAGE = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), dtype=np.float32)


class Failing:
    """A device that works as long as inputs have no `after` voxels or more, and then fails."""

    name = "card"

    def __init__(self, file, failure: DeviceFailed, after: int) -> None:
        self._run, self._failure, self._after = TorchNetwork(file, "cpu"), failure, after
        self.calls = 0

    def __call__(self, array):
        self.calls += 1
        if array.size >= self._after:
            raise self._failure
        return self._run(array)


def opened(folder, device, opener=lambda file, *names: TorchNetwork(file, "cpu")):
    return open_network(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, device, 1, opener)


def test_a_device_that_works_is_used(networks):
    folder, unet, _ = networks
    for device in ("auto", "cuda"):
        network = opened(folder, device)
        assert (network.name, network.reason) == ("torch on the cpu", "")
        np.testing.assert_allclose(network(IMAGE), unet(IMAGE), atol=1e-5)


def test_the_cpu_needs_no_other_device(networks):
    folder, unet, _ = networks
    network = opened(folder, "cpu", opener=None)
    assert (network.name, network.reason) == ("cpu", "")
    np.testing.assert_allclose(network(IMAGE), unet(IMAGE), atol=1e-5)


def test_a_device_that_cannot_be_opened(networks):
    folder, unet, _ = networks

    def opener(*arguments):
        raise DeviceFailed("the NVIDIA driver is too old")

    network = opened(folder, "auto", opener)
    assert (network.name, network.reason) == ("cpu", "the NVIDIA driver is too old")
    np.testing.assert_allclose(network(IMAGE), unet(IMAGE), atol=1e-5)
    with refused("device-failed", got="the NVIDIA driver is too old"):
        opened(folder, "cuda", opener)


def test_a_network_that_the_device_does_not_support(networks):
    folder, unet, _ = networks

    def opener(*arguments):
        raise InputError("network-unsupported", "unet.onnx", "known operators", "Erf", "use the CPU")

    network = opened(folder, "auto", opener)
    assert (network.name, network.reason) == ("cpu", "Erf")
    np.testing.assert_allclose(network(IMAGE), unet(IMAGE), atol=1e-5)
    with refused("network-unsupported", got="Erf"):
        opened(folder, "cuda", opener)


@pytest.mark.parametrize("wrong", [0.01, np.nan], ids=str)
def test_a_device_with_other_scores_is_not_used(networks, wrong):
    folder, *_ = networks

    class Wrong(TorchNetwork):
        def __call__(self, array):
            return super().__call__(array) + np.float32(wrong)

    def opener(file, *names):
        return Wrong(file, "cpu")

    assert opened(folder, "auto", opener).name == "cpu"
    with refused("device-failed", got="differs from the CPU"):
        opened(folder, "cuda", opener)


def test_a_device_that_is_lost(networks, caplog):
    """One warning, and the CPU from then on; `cuda` fails in words."""
    folder, unet, _ = networks
    image = np.zeros((1, 1, 40, 40, 40), np.float32)
    card = Failing(folder / UNET_FILE, DeviceFailed("CUDA error: device lost"), 40**3)
    network = opened(folder, "auto", lambda *arguments: card)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            np.testing.assert_allclose(network(image), unet(image), atol=1e-5)
    assert [network.name, network.reason, len(caplog.records)] == ["cpu", "CUDA error: device lost", 1]
    assert card.calls == 2  # the comparison, and the call that failed
    strict = opened(folder, "cuda", lambda *arguments: card)
    with refused("device-failed", got="device lost"):
        strict(image)


def test_a_scan_that_does_not_fit_leaves_the_device_in_use(networks):
    folder, unet, _ = networks
    large = np.zeros((1, 1, 40, 40, 40), np.float32)
    card = Failing(folder / UNET_FILE, DoesNotFit("CUDA out of memory"), 40**3)
    network = opened(folder, "auto", lambda *arguments: card)
    np.testing.assert_allclose(network(large), unet(large), atol=1e-5)
    assert network.name == "card"
    with refused("device-memory", got="out of memory"):
        opened(folder, "cuda", lambda *arguments: card)(large)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device")
def test_this_machine_has_none(networks):
    folder, *_ = networks
    network = opened(folder, "auto", opener=None)
    assert network.name == "cpu" and network.reason
    with refused("device-failed", got="no NVIDIA driver|CUDA"):
        opened(folder, "cuda", opener=None)


def test_unknown_devices_are_named(networks):
    folder, *_ = networks
    with refused("device-unknown", got="'tpu'"):
        opened(folder, "tpu")


@pytest.mark.parametrize("broken", [OSError("libcudnn.so.9: cannot open shared object file"), ImportError("no module named torch")])
def test_a_library_that_cannot_be_imported(networks, monkeypatch, broken):
    """`auto` continues with the CPU, for the networks and for the work around them."""
    folder, *_ = networks
    imports = builtins.__import__

    def failing(name, *arguments, **more):
        if name in ("cmb_models.runtime.cuda_torch", "cmb_models.runtime.torch_arrays"):
            raise broken
        return imports(name, *arguments, **more)

    monkeypatch.setattr("cmb_models.runtime.device._require_driver", lambda: None)
    monkeypatch.setattr(builtins, "__import__", failing)
    assert str(broken) in opened(folder, "auto", opener=None).reason
    assert str(broken) in open_arrays("auto").reason


def test_a_fault_of_the_device_is_not_the_scans():
    assert is_of_device(InputError("device-memory", "scan", "a", "b", "c"))
    assert not is_of_device(InputError("scan-file", "scan", "a", "b", "c"))
