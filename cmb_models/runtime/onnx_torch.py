"""Run an ONNX file by torch, on a CUDA device or the CPU: the operators that this project's networks consist of.

onnx2torch 1.5 does not read these graphs (opset 20: Pad and ReduceMax in newer versions) and needs torchvision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from cmb_models.errors import InputError
from cmb_models.runtime.parts import geometry

Values = list[Any]  # inputs of a node: tensors, and NumPy arrays for whole-number constants; None for one that is left out
Attributes = Mapping[str, Any]


class OnnxNetwork:
    """The graph of an ONNX file on a device.

    Args:
        file: The ONNX file.
        device: Where to run it.
        dtype: Of the weights, and of the input to pass. Releases run in float32: float16 moves scores more than golden scans allow.

    Raises:
        InputError: If the graph has an operator that is not in OPERATORS, or pads otherwise than by its edge.
    """

    def __init__(self, file: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        graph = onnx.load(str(file)).graph
        self._nodes = [(node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}) for node in graph.node]
        operators = {node.op_type for node, _ in self._nodes} - set(OPERATORS)
        modes = {attributes.get("mode", b"constant").decode() for node, attributes in self._nodes if node.op_type == "Pad"}
        if unknown := sorted(operators | {f"Pad ({mode})" for mode in modes - {"edge"}}):
            expected, remedy = f"operators among {', '.join(sorted(OPERATORS))}", "install onnxruntime-gpu, or use the CPU"
            raise InputError("network-unsupported", file, expected, ", ".join(unknown), remedy)
        self.device, self._dtype = device, dtype
        self.reach, self.multiple = geometry(file)
        self._output = graph.output[0].name
        self._input = graph.input[0].name
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._constants = {n: self._constant(a) for n, a in arrays.items()}
        # After its last use a tensor is released: of a whole scan only a few fit on a small card.
        last = {name: n for n, (node, _) in enumerate(self._nodes) for name in node.input}
        self._released = [[name for name in node.input if last[name] == n] for n, (node, _) in enumerate(self._nodes)]

    def _constant(self, array: np.ndarray) -> Tensor | np.ndarray:
        return torch.from_numpy(array.copy()).to(self.device, self._dtype) if np.issubdtype(array.dtype, np.floating) else array

    def __call__(self, image: Tensor) -> Tensor:
        """The graph's output for its input, both on the device in `dtype`."""
        values: dict[str, Any] = {self._input: image}
        for (node, attributes), released in zip(self._nodes, self._released, strict=True):
            inputs = [values[name] if name in values else self._constants.get(name) for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](inputs, attributes)
            for name in released:
                values.pop(name, None)
        output: Tensor = values[self._output]
        return output


def _spatial_pads(pads: Sequence[int]) -> list[int]:
    """ONNX's pads, all begins before all ends, as torch.nn.functional.pad takes them: last axis first."""
    half = len(pads) // 2
    return list(itertools.chain.from_iterable(zip(pads[:half][::-1], pads[half:][::-1], strict=True)))


def _padded(image: Tensor, attributes: Attributes, value: float = 0.0) -> Tensor:
    pads = attributes.get("pads", ())
    return functional.pad(image, _spatial_pads(pads), value=value) if any(pads) else image


def _conv(inputs: Values, attributes: Attributes) -> Tensor:
    image, weight, *bias = inputs
    run = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[weight.ndim]
    ones = [1] * (weight.ndim - 2)
    pads, half = attributes.get("pads", [0] * 2 * len(ones)), len(ones)
    # cuDNN pads by itself where both sides are alike, which saves a copy.
    inside = list(pads[:half]) if list(pads[:half]) == list(pads[half:]) else [0] * half
    image = image if any(inside) else _padded(image, attributes)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    result: Tensor = run(image, weight, bias[0] if bias else None, strides, inside, dilations, attributes.get("group", 1))
    return result


def _conv_transpose(inputs: Values, attributes: Attributes) -> Tensor:
    image, weight, *bias = inputs
    run = {3: functional.conv_transpose1d, 4: functional.conv_transpose2d, 5: functional.conv_transpose3d}[weight.ndim]
    ones = [1] * (weight.ndim - 2)
    half = attributes.get("pads", [0] * 2 * len(ones))[: len(ones)]
    strides, spare = attributes.get("strides", ones), attributes.get("output_padding", [0] * len(ones))
    result: Tensor = run(image, weight, bias[0] if bias else None, strides, half, spare, attributes.get("group", 1))
    return result


def _max_pool(inputs: Values, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    run = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(kernel)]
    image = _padded(inputs[0], attributes, float("-inf"))
    return run(image, kernel, attributes.get("strides", [1] * len(kernel)), ceil_mode=bool(attributes.get("ceil_mode", 0)))


def _batch_norm(inputs: Values, attributes: Attributes) -> Tensor:
    image, scale, shift, mean, variance = inputs
    return functional.batch_norm(image, mean, variance, scale, shift, training=False, eps=attributes.get("epsilon", 1e-5))


def _pad(inputs: Values, attributes: Attributes) -> Tensor:
    image, pads, *rest = inputs
    pads = [int(p) for p in pads]
    axes = [int(a) for a in rest[1]] if len(rest) > 1 and rest[1] is not None else list(range(image.ndim))
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if low or high:
            image = _pad_axis(image, axis, low, high)
    return image


def _pad_axis(image: Tensor, axis: int, low: int, high: int) -> Tensor:
    sizes = list(image.shape)
    first, last = image.narrow(axis, 0, 1), image.narrow(axis, sizes[axis] - 1, 1)
    before, after = ([*sizes[:axis], n, *sizes[axis + 1 :]] for n in (low, high))
    return torch.cat([first.expand(before), image, last.expand(after)], axis)


def _slice(inputs: Values, attributes: Attributes) -> Tensor:
    image, starts, ends, *rest = inputs
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = image.shape[int(axis)]
        places = range(size)[slice(int(start), None if int(end) < -size else int(end), int(step))]
        if step < 0:
            image = image.narrow(int(axis), places[-1], places[0] - places[-1] + 1).flip(int(axis))
        else:
            image = image.narrow(int(axis), places.start, max(0, places.stop - places.start))
        if abs(step) > 1:
            image = image[(slice(None),) * int(axis) + (slice(None, None, abs(int(step))),)]
    return image


def _reduce(extreme: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Values, Attributes], Tensor]:
    def run(inputs: Values, attributes: Attributes) -> Tensor:
        image, *rest = inputs
        axes = [int(a) for a in rest[0]] if rest and rest[0] is not None else list(range(image.ndim))
        return extreme(image, axes, bool(attributes.get("keepdims", 1)))

    return run


def _gemm(inputs: Values, attributes: Attributes) -> Tensor:
    a, b, *c = inputs
    a, b = (m.T if attributes.get(f"trans{name}", 0) else m for name, m in (("A", a), ("B", b)))
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * c[0] if c else product


def _gather(inputs: Values, attributes: Attributes) -> Tensor:
    image, index = inputs
    axis, places = attributes.get("axis", 0), torch.tensor(np.atleast_1d(index), device=image.device)
    found: Tensor = image.index_select(axis, places)
    return found.squeeze(axis) if np.ndim(index) == 0 else found


def _unsqueeze(inputs: Values, attributes: Attributes) -> Tensor:
    image: Tensor = inputs[0]
    for axis in sorted(int(a) for a in inputs[1]):
        image = image.unsqueeze(axis)
    return image


def _pairwise(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Values, Attributes], Tensor]:
    def fold(inputs: Values, attributes: Attributes) -> Tensor:
        result: Tensor = inputs[0]
        for other in inputs[1:]:
            result = run(result, other)
        return result

    return fold


OPERATORS: dict[str, Callable[[Values, Attributes], Tensor]] = {
    "Add": _pairwise(torch.add),
    "BatchNormalization": _batch_norm,
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": _gather,
    "Gemm": _gemm,
    "Max": _pairwise(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _pairwise(torch.minimum),
    "Pad": _pad,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "Relu": lambda inputs, attributes: torch.relu(inputs[0]),
    "Sigmoid": lambda inputs, attributes: torch.sigmoid(inputs[0]),
    "Slice": _slice,
    "Sub": _pairwise(torch.sub),
    "Unsqueeze": _unsqueeze,
}
