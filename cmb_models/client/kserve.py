"""The messages and calls of KServe v2 that a client needs, by gRPC and protobuf alone.

Triton's own client brings 35 MB that are not needed to send a scan (ml_dtypes, rapidjson). Messages are built here from the numbers
of their fields, so that no generated code has to match the installed protobuf. Fields that are left out are skipped in responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cmb_models.client.contract import Tensor

PACKAGE, SERVICE = "cmb_models.kserve", "inference.GRPCInferenceService"
LENGTH_BYTES = 4  # before each element of a BYTES tensor
TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "int64*")}
PARAMETERS = "Parameter{}"
# Fields by message: number and type, which is a scalar's name or a message; * for repeated fields, {} for maps by string.
# From grpc_service.proto and model_config.proto, which examples/wire/proto has.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Parameter": {"int64_param": (2, "int64"), "string_param": (3, "string")},
    "TensorMetadata": TENSOR,
    "Input": {**TENSOR, "parameters": (4, PARAMETERS)},
    "RequestedOutput": {"name": (1, "string")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "inputs": (5, "Input*"),
        "outputs": (6, "RequestedOutput*"),
        "raw_input_contents": (7, "bytes*"),
    },
    "ModelInferResponse": {"outputs": (5, "TensorMetadata*"), "raw_output_contents": (6, "bytes*")},
    "Model": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ModelMetadataResponse": {"inputs": (4, "TensorMetadata*"), "outputs": (5, "TensorMetadata*")},
    "Step": {"model_name": (1, "string"), "model_version": (2, "int64")},
    "Ensemble": {"step": (1, "Step*")},
    "ConfigParameter": {"string_value": (1, "string")},
    "ModelConfig": {"parameters": (14, "ConfigParameter{}"), "ensemble_scheduling": (15, "Ensemble")},
    "ModelConfigResponse": {"config": (1, "ModelConfig")},
    "SystemSharedMemoryRegisterRequest": {"name": (1, "string"), "key": (2, "string"), "byte_size": (4, "uint64")},
    "SystemSharedMemoryUnregisterRequest": {"name": (1, "string")},
    "Empty": {},
}
CALLS = {  # request and response
    "ModelReady": ("Model", "ModelReadyResponse"),
    "ModelMetadata": ("Model", "ModelMetadataResponse"),
    "ModelConfig": ("Model", "ModelConfigResponse"),
    "ModelInfer": ("ModelInferRequest", "ModelInferResponse"),
    "SystemSharedMemoryRegister": ("SystemSharedMemoryRegisterRequest", "Empty"),
    "SystemSharedMemoryUnregister": ("SystemSharedMemoryUnregisterRequest", "Empty"),
}


def _classes() -> Mapping[str, Any]:
    """The message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="cmb_models/client/kserve", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind.endswith("{}"):
                entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
                entry.options.map_entry = True
                _add_field(entry, "key", 1, "string")
                _add_field(entry, "value", 2, kind.removesuffix("{}"))
                kind = f"{name}.{entry.name}*"
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    repeated, kind = kind.endswith("*"), kind.removesuffix("*")
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if kind[0].isupper():
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


CLASSES = _classes()


class Service:
    """The calls on a channel. Each raises grpc.RpcError."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._calls = {
            name: channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=CLASSES[request].SerializeToString,
                response_deserializer=CLASSES[response].FromString,
            )
            for name, (request, response) in CALLS.items()
        }

    def call(self, call: str, timeout_s: float, headers: Mapping[str, str] | None = None, /, **fields: Any) -> Any:
        """The response of a call of CALLS, to a request with these fields."""
        return self.send(call, CLASSES[CALLS[call][0]](**fields), timeout_s, headers)

    def send(self, call: str, request: Any, timeout_s: float, headers: Mapping[str, str] | None = None) -> Any:
        """The response of a call of CALLS."""
        return self._calls[call](request, timeout=timeout_s, metadata=tuple((headers or {}).items()))


def infer_request(model: str, tensors: Sequence[tuple[Tensor, np.ndarray]], outputs: Sequence[Tensor]) -> Any:
    """A ModelInferRequest with inputs that state name, type and shape, still without their content."""
    request = CLASSES["ModelInferRequest"](model_name=model)
    for tensor, array in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
    for tensor in outputs:
        request.outputs.add(name=tensor.name)
    return request


def output_arrays(response: Any, outputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The outputs of a ModelInferResponse by name, of each tensor's type and shape; BYTES as an object array of bytes.

    Further outputs are left out. Raises ValueError if one of `outputs` is missing, or has another type, shape or size.
    """
    sent = {entry.name: (entry, raw) for entry, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    if missing := [tensor.name for tensor in outputs if tensor.name not in sent]:
        raise ValueError(f"no {', '.join(missing)}")
    arrays = {tensor.name: _array(tensor, *sent[tensor.name]) for tensor in outputs}
    if len(lengths := {len(arrays[tensor.name]) for tensor in outputs if tensor.shape[0] == -1}) > 1:  # -1 is N in each
        raise ValueError(f"between {min(lengths)} and {max(lengths)} candidates, by the output")
    return arrays


def _array(tensor: Tensor, entry: Any, raw: bytes) -> np.ndarray:
    shape = tuple(entry.shape)
    if len(shape) != len(tensor.shape) or any(n != m != -1 for n, m in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"{tensor.name} of shape {shape}")
    if entry.datatype != tensor.datatype:
        raise ValueError(f"{tensor.name} of type {entry.datatype or '(none)'}")
    if tensor.datatype == "BYTES":
        return np.array(list(_elements(raw)), dtype=np.object_).reshape(shape)
    return np.frombuffer(raw, dtype=np.dtype(tensor.dtype).newbyteorder("<")).reshape(shape)


def _elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a BYTES tensor, each after its length."""
    start = 0
    while start < len(raw):
        size = int.from_bytes(raw[start : start + LENGTH_BYTES], "little")
        start += LENGTH_BYTES + size
        yield raw[start - size : start]
