"""Running exported networks by torch, whole and in parts: the CPU runtime's scores. CUDA devices run the same code."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from cmb_models.detect.preprocess import prepare
from cmb_models.io.nifti import read_volume
from cmb_models.release.base import base_bundle
from cmb_models.release.bundle import CNN_FILE, CNN_INPUT, CNN_OUTPUT, GOLDEN_SCAN, UNET_FILE, UNET_INPUT, UNET_OUTPUT, load_bundle
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit
from cmb_models.runtime.cpu import open_onnx
from cmb_models.runtime.cuda_onnxruntime import CPU, CUDA, OnnxruntimeNetwork
from cmb_models.runtime.cuda_torch import TorchNetwork
from cmb_models.runtime.onnx_torch import OnnxNetwork
from cmb_models.runtime.parts import geometry, run_in_parts
from cmb_models.serving.check.answers import SCORE_TOLERANCE
from tests.support.refused import refused

TOLERANCE = 1e-5
EXAMPLE = base_bundle()  # trained networks


class TooLarge(Exception):
    pass


def at_most(run, voxels: int):
    """The network, but with a memory of so many voxels."""

    def limited(array):
        if array.size > voxels:
            raise TooLarge(f"{array.size} voxels")
        return run(array)

    return limited


@pytest.mark.parametrize("shape", [(16, 16, 16), (48, 24, 8)], ids=str)
def test_unet_by_torch(networks, shape):
    folder, unet, _ = networks
    image = np.random.default_rng(0).standard_normal((1, 1, *shape), dtype=np.float32)
    np.testing.assert_allclose(TorchNetwork(folder / UNET_FILE, "cpu")(image), unet(image), atol=TOLERANCE)


def test_cnn_by_torch(networks):
    folder, _, cnn = networks
    run = TorchNetwork(folder / CNN_FILE, "cpu")
    for count in (1, 7):
        patches = np.random.default_rng(count).standard_normal((count, 1, 20, 20, 10), dtype=np.float32)
        np.testing.assert_allclose(run(patches), cnn(patches), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("file", "names", "shape"),
    [(UNET_FILE, (UNET_INPUT, UNET_OUTPUT), (1, 1, 64, 48, 32)), (CNN_FILE, (CNN_INPUT, CNN_OUTPUT), (5, 1, 20, 20, 10))],
)
def test_a_trained_release_by_torch(file, names, shape):
    array = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    expected = open_onnx(EXAMPLE / file, *names)(array)
    np.testing.assert_allclose(TorchNetwork(EXAMPLE / file, "cpu")(array), expected, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "share"), [((400, 24, 8), 0.8), ((24, 400, 8), 0.8), ((400, 400, 8), 0.6)], ids=str)
def test_parts_give_the_answer_of_the_whole(networks, shape, share):
    """Every voxel: the overlap covers what the network sees, and parts begin where its strides do."""
    folder, unet, _ = networks
    image = np.random.default_rng(2).standard_normal((1, 1, *shape), dtype=np.float32)
    reach, multiple = geometry(folder / UNET_FILE)
    in_parts = run_in_parts(at_most(unet, int(share * image.size)), image, reach, multiple, TooLarge)
    np.testing.assert_allclose(in_parts, unet(image), atol=TOLERANCE)


def test_onnxruntime_opens_a_device_or_says_why_not(networks):
    folder, unet, _ = networks
    image = np.random.default_rng(4).standard_normal((1, 1, 16, 24, 8), dtype=np.float32)
    run = OnnxruntimeNetwork(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT, CPU)
    np.testing.assert_allclose(run(image), unet(image), atol=TOLERANCE)
    if CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(DeviceFailed, match="CUDA"):
            OnnxruntimeNetwork(folder / UNET_FILE, UNET_INPUT, UNET_OUTPUT)


def test_patches_are_parted_by_item(networks):
    folder, _, cnn = networks
    patches = np.random.default_rng(3).standard_normal((7, 1, 20, 20, 10), dtype=np.float32)
    in_parts = run_in_parts(at_most(cnn, 2 * patches[0].size), patches, *geometry(folder / CNN_FILE), TooLarge)
    np.testing.assert_allclose(in_parts, cnn(patches), atol=TOLERANCE)
    with pytest.raises(TooLarge):
        run_in_parts(at_most(cnn, patches[0].size - 1), patches, *geometry(folder / CNN_FILE), TooLarge)


def test_a_volume_that_cannot_be_parted_further_is_refused(networks):
    folder, unet, _ = networks
    with pytest.raises(TooLarge):
        run_in_parts(at_most(unet, 1000), np.zeros((1, 1, 264, 40, 16), np.float32), *geometry(folder / UNET_FILE), TooLarge)


def graph(*nodes, weights=(), pads=None):
    image, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, "i", "j", "k"]) for n in ("image", "out"))
    tensors = [helper.make_tensor(n, TensorProto.FLOAT, s, np.ones(np.prod(s))) for n, s in weights]
    tensors += [helper.make_tensor("pads", TensorProto.INT64, [10], pads)] if pads else []
    return helper.make_model(
        helper.make_graph(list(nodes), "g", [image], [out], tensors), opset_imports=[helper.make_opsetid("", 20)]
    )


def test_geometry_by_hand(tmp_path):
    """Kernel 3 at stride 2, then kernel 3: 2 voxels and 2 * 2 for both, and 5 of edge padding along the first axis."""
    model = graph(
        helper.make_node("Pad", ["image", "pads"], ["p"], mode="edge"),
        helper.make_node("Conv", ["p", "a"], ["x"], kernel_shape=[3, 3, 1], strides=[2, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["out"], kernel_shape=[3, 1, 1]),
        weights=[("a", (1, 1, 3, 3, 1)), ("b", (1, 1, 3, 1, 1))],
        pads=[0, 0, 5, 0, 0, 0, 0, 5, 0, 0],
    )
    onnx.save(model, tmp_path / "n.onnx")
    assert geometry(tmp_path / "n.onnx") == ((5 + 2 + 2 * 2, 2, 0), (2, 1, 1))


def test_an_operator_without_implementation_is_named(tmp_path):
    onnx.save(graph(helper.make_node("Erf", ["image"], ["out"])), tmp_path / "n.onnx")
    with refused("network-unsupported", got="Erf"):
        OnnxNetwork(tmp_path / "n.onnx", torch.device("cpu"))


def test_padding_without_implementation_is_named(tmp_path):
    node = helper.make_node("Pad", ["image", "pads"], ["out"], mode="reflect")
    onnx.save(graph(node, pads=[0, 0, 1, 0, 0, 0, 0, 1, 0, 0]), tmp_path / "n.onnx")
    with refused("network-unsupported", got=r"Pad \(reflect\)"):
        OnnxNetwork(tmp_path / "n.onnx", torch.device("cpu"))


def test_memory_that_is_too_small_is_not_a_lost_device(networks, monkeypatch):
    folder, *_ = networks
    run = TorchNetwork(folder / UNET_FILE, "cpu")

    def full(self, image):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text")

    monkeypatch.setattr(OnnxNetwork, "__call__", full)
    with pytest.raises(DoesNotFit, match=r"out of memory. Tried to allocate 2.00 GiB.$"):
        run(np.zeros((1, 1, 16, 16, 16), np.float32))


def test_half_precision_of_a_trained_release():
    """Why it is not used: its scores are near float32's, but not as near as a deployment's golden scan asks for."""
    bundle = load_bundle(EXAMPLE)
    image = prepare(read_volume(EXAMPLE / GOLDEN_SCAN), bundle.config.preprocess, "golden scan").image[None, None]
    exact = TorchNetwork(EXAMPLE / UNET_FILE, "cpu")(image)
    network = OnnxNetwork(EXAMPLE / UNET_FILE, torch.device("cpu"), torch.float16)
    with torch.inference_mode():
        half = network(torch.from_numpy(image).half()).float().numpy()
    assert SCORE_TOLERANCE < np.abs(half - exact).max() < 5e-3
