"""The filters of detect/line_filters.py as nodes of an ONNX graph, in front of a network."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cmb_models.detect.line_filters import CHANNELS
from cmb_models.networks.line_filters import channels


def prepend_spots(model: onnx.ModelProto, image_name: str, spots_name: str) -> None:
    """Put the filters in front of a network, in place: its input `spots_name`, (N, C + 2, I, J, K), is then made from `image_name`.

    Written node by node: tracing them through torch's exporter takes a minute for the same nodes.
    """
    graph = model.graph
    ops = _Graph(image_name)
    (begin,) = (value for value in graph.input if value.name == spots_name)
    begin.name = image_name
    given = begin.type.tensor_type.shape.dim[1]
    given.dim_value -= CHANNELS - 1
    image, others = _Value(ops, image_name), []
    if given.dim_value > 1:
        image, others = ops.cut(image, [0], [1], [1]), [ops.cut(image, [1], [given.dim_value], [1])]
    channels(image, others, ops)
    ops.nodes[-1].output[0] = spots_name
    behind = list(graph.node)
    del graph.node[:]
    graph.node.extend([*ops.nodes, *behind])
    graph.initializer.extend(ops.constants.values())


class _Value:
    """A tensor in a graph being written; slicing its last axes writes a node."""

    def __init__(self, ops: _Graph, name: str) -> None:
        self.ops, self.name = ops, name

    def __getitem__(self, key: tuple) -> _Value:
        cut = [(axis, s) for axis, s in enumerate(key[1:], start=2) if s != slice(None)]  # key[0] is ..., for N and channels
        last = np.iinfo(np.int64).max
        starts, ends = [s.start or 0 for _, s in cut], [last if s.stop is None else s.stop for _, s in cut]
        return self.ops.cut(self, starts, ends, [axis for axis, _ in cut])


class _Graph:
    """What the filters are made of, for a graph: nodes and constants, named after the tensor they begin with."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: list[str], **attributes) -> _Value:
        """Write one node; its output."""
        name = f"{self.prefix}_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}_node", **attributes))
        return _Value(self, name)

    def constant(self, values: list[int]) -> str:
        """The name of a constant, written once."""
        name = f"{self.prefix}_constant_{'_'.join(map(str, values))}"
        self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype=np.int64), name)
        return name

    def cut(self, image: _Value, starts: list[int], ends: list[int], axes: list[int]) -> _Value:
        return self.node("Slice", [image.name, *map(self.constant, (starts, ends, axes))])

    def maximum(self, a: _Value, b: _Value) -> _Value:
        return self.node("Max", [a.name, b.name])

    def minimum(self, a: _Value, b: _Value) -> _Value:
        return self.node("Min", [a.name, b.name])

    def minus(self, a: _Value, b: _Value) -> _Value:
        return self.node("Sub", [a.name, b.name])

    def padded(self, image: _Value, margin: tuple[int, int, int]) -> _Value:
        return self.node("Pad", [image.name, self.constant([0, 0, *margin, 0, 0, *margin])], mode="edge")

    def joined(self, channels: list[_Value]) -> _Value:
        return self.node("Concat", [c.name for c in channels], axis=1)
