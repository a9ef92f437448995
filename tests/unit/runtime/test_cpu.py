"""Running exported networks on the CPU: every runtime answers as torch does, whatever the shape, from one thread or many."""

from __future__ import annotations

import importlib.util
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from cmb_models.release.bundle import CNN_FILE, CNN_INPUT, CNN_OUTPUT, UNET_FILE, UNET_INPUT, UNET_OUTPUT
from cmb_models.runtime.cpu import RUNTIMES, SPOTS, open_onnx

TOLERANCE = 1e-5  # the parity bound of params.yaml


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [(16, 16, 16), (48, 24, 8), (8, 8, 8)], ids=str)
def test_unet_answers_as_torch_does(networks, runtime, shape):
    folder, unet, _ = networks
    image = np.random.default_rng(0).standard_normal((1, 1, *shape), dtype=np.float32)
    run = open_onnx(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, 2, runtime)
    for _ in range(2):  # a runtime keeps memory between calls
        got = run(image)
        assert got.shape == image.shape and got.dtype == np.float32
        np.testing.assert_allclose(got, unet(image), atol=TOLERANCE)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_cnn_answers_as_torch_does(networks, runtime):
    folder, _, cnn = networks
    run = open_onnx(folder / CNN_FILE, CNN_INPUT, CNN_OUTPUT, 2, runtime)
    for count in (1, 7, 300):
        patches = np.random.default_rng(count).standard_normal((count, 1, 20, 20, 10), dtype=np.float32)
        np.testing.assert_allclose(run(patches), cnn(patches), atol=TOLERANCE)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_threads_share_a_network(networks, runtime):
    folder, unet, _ = networks
    run = open_onnx(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, 1, runtime)
    images = [np.random.default_rng(n).standard_normal((1, 1, 16, 16, 8 + 8 * (n % 3)), dtype=np.float32) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for image, got in zip(images, pool.map(run, images), strict=True):
            np.testing.assert_allclose(got, unet(image), atol=TOLERANCE)


@pytest.mark.parametrize(("file", "behind"), [(UNET_FILE, ["Conv", "Conv"]), (CNN_FILE, ["Conv", "Slice", "Slice", "Slice"])])
def test_graph_names_where_the_fixed_filters_end(networks, file, behind):
    """Else they would be computed by the runtime, shift by shift."""
    folder, *_ = networks
    graph = onnx.load(folder / file).graph
    makers = [node for node in graph.node if SPOTS in node.output]
    assert [node.op_type for node in makers] == ["Concat"]
    # Conv, Conv: a first convolution and the shortcut past it; Slice: one of stage 2's three mirrors.
    assert sorted(node.op_type for node in graph.node if SPOTS in node.input) == behind
    onnx.checker.check_model(onnx.load(folder / file), full_check=True)


def test_unknown_runtime_is_named():
    with pytest.raises(ValueError, match="'tensorflow'"):
        open_onnx("unet.onnx", UNET_INPUT, UNET_OUTPUT, runtime="tensorflow")


def test_onnxruntime_is_used_where_openvino_is_not_installed(networks, monkeypatch, caplog):
    folder, unet, _ = networks
    image = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), dtype=np.float32)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find_spec(name, *rest))
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it fails
    with caplog.at_level(logging.INFO, "cmb_models.runtime.cpu"):
        run = open_onnx(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, 2)
    assert "OpenVINO is not installed" in caplog.text
    np.testing.assert_allclose(run(image), unet(image), atol=TOLERANCE)
