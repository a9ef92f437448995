"""Run a network on overlapping parts of an input that does not fit into a device's memory, with the answer of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from cmb_models.arrays import Array

Triple = tuple[int, int, int]


def geometry(file: Path) -> tuple[Triple, Triple]:
    """How far, in voxels of the input, an output voxel of an ONNX graph sees along each axis, and the largest stride.

    A convolution sees half its kernel, in units of the strides before it; the edge padding in front of the fixed line filters is as
    wide as they reach. What follows a pooling over the whole patch is not counted: patches are never cut.
    """
    graph = onnx.load(str(file), load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    reach, jump = {graph.input[0].name: np.zeros(3)}, {graph.input[0].name: np.ones(3)}
    most = np.ones(3)
    for node in graph.node:
        seen = [name for name in node.input if name in reach]
        if not seen:
            continue
        far, step = np.max([reach[n] for n in seen], axis=0), np.max([jump[n] for n in seen], axis=0)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        strides = np.array(attributes.get("strides", [1, 1, 1]))
        if node.op_type in ("Conv", "ConvTranspose", "MaxPool"):
            kernel = np.array(attributes.get("kernel_shape") or shapes[node.input[1]][2:])
            if node.op_type == "ConvTranspose":
                step = step / strides
                far = far + step * (kernel - 1)
            else:
                far = far + step * (kernel - 1)
                step = step * strides
        elif node.op_type == "Pad":
            pads = values[node.input[1]]
            far = far + pads[len(pads) // 2 - 3 : len(pads) // 2]
        most = np.maximum(most, step)
        reach[node.output[0]], jump[node.output[0]] = far, step
    last = reach.get(graph.output[0].name, np.zeros(3))
    return _triple(np.ceil(last)), _triple(most)


def _triple(values: np.ndarray) -> Triple:
    a, b, c = (int(v) for v in values)
    return a, b, c


def input_sizes(file: Path) -> list[int | None]:
    """Shape of an ONNX graph's input; None for axes of any size."""
    dimensions = onnx.load(str(file), load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else None for d in dimensions]


def run_in_parts(
    run: Callable[[Array], Array],
    array: Array,
    reach: Triple,
    multiple: Triple,
    too_large: type[Exception],
    join: Callable[..., Array] = np.concatenate,
) -> Array:
    """Run a network on an array, on halves of it where `too_large` is raised, on halves of these, and so on.

    Args:
        run: (N, C, I, J, K) to (N, 1, I, J, K) or (N,).
        array: The input. Several items are parted by item; one is cut along its longest axis.
        reach: Voxels that an output voxel sees to either side, along each axis; parts overlap by as much.
        multiple: Parts begin at multiples of these, so that strided convolutions meet the same voxels.
        too_large: What `run` raises for an input that does not fit.
        join: Concatenates a list of arrays along `axis`.

    Returns:
        What `run` returns for the whole, up to rounding.

    Raises:
        too_large: If the smallest parts do not fit.
    """
    cut = _cut(array.shape[2:], reach, multiple)
    try:
        return run(array)
    except too_large:
        if len(array) < 2 and cut is None:
            raise
    # Only now, when the failed attempt's frames and with them its tensors are gone.
    if len(array) > 1:
        half = len(array) // 2
        halves = (array[:half], array[half:])
        return join([run_in_parts(run, part, reach, multiple, too_large, join) for part in halves], axis=0)
    assert cut is not None
    axis, middle, overlap = cut
    before, after = (slice(None),) * (2 + axis), (slice(None),) * (2 - axis)

    def part(low: int, high: int) -> Array:
        return run_in_parts(run, array[(*before, slice(low, high), *after)], reach, multiple, too_large, join)

    first = part(0, middle + overlap)[(*before, slice(0, middle), *after)]
    second = part(middle - overlap, array.shape[2 + axis])[(*before, slice(overlap, None), *after)]
    return join([first, second], axis=2 + axis)


def _cut(shape: Sequence[int], reach: Triple, multiple: Triple) -> tuple[int, int, int] | None:
    """Axis, place and overlap at which to halve a volume; None if no half would be at most three quarters of the whole."""
    options = []
    for axis, size in enumerate(shape):
        overlap = math.ceil(reach[axis] / multiple[axis]) * multiple[axis]
        middle = size // 2 // multiple[axis] * multiple[axis]
        if middle >= overlap and max(middle + overlap, size - middle + overlap) <= 0.75 * size:
            options.append((max(middle + overlap, size - middle + overlap) / size, axis, middle, overlap))
    return min(options)[1:] if options else None
