"""Requests that no client would make, sent to a server to see that each is refused in words and that the server lives on.

`python -m tests.support.fuzz HOST:PORT [HTTP HOST:PORT] [COUNT] [SEED]` prints what came of them. Every request comes from the
seed and its number alone, so one that did harm can be sent again by itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from cmb_models.client.connection import channel
from cmb_models.client.contract import AFFINE, CANDIDATES, CNN, DECIDE, DETECTOR, OUTPUTS, PREPARE, UNET, VOLUME
from cmb_models.serving.triton.step import RENAMED, flow
from tests.support.fuzz_http import send_garbage, send_http

TIMEOUT_S = 60
SHARES = {"infer": 0.78, "http": 0.12, "garbage": 0.10}
TYPES = ("FP32", "FP64", "INT32", "INT64", "BYTES", "BOOL", "FP16", "BF16", "UINT8", "", "TYPE_FP32", "float", "FP128")
NUMBERS = (0, 1, -1, 2, 3, 7, 4096, 2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, -(2**63))
NAMES = ("", "volume", "affine", "phase", "heatmap", "\0", "../../etc/passwd", "v" * 70_000, "Volume", "score", "☃")
PATCH = (20, 20, 10)  # a release may have others; then these are refused
MODELS = (DETECTOR, PREPARE, UNET, CANDIDATES, CNN, DECIDE)
VERSIONS = ("", "1", "0", "-1", "2", "99999999999999999999", "one", "1.0", " 1")
# Inner steps' inputs by the models' own names for them, so that nonsense reaches the steps and not Triton's check of names alone.
INNER = {
    step: tuple((RENAMED.get(step, {}).get(t.name, t.name), np_to_triton_dtype(t.dtype), t.shape) for t in inputs)
    for step, (inputs, _) in flow(uses_phase=False).items()
}
NUMPY_OF = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64}


def fuzz(url: str, count: int, seed: int, http_url: str | None = None) -> Counter:
    """Send `count` requests and count what came: "answered", the gRPC status or HTTP code of a refusal, "closed" for a connection
    that was garbage. What should never come is named with its message: INTERNAL, UNKNOWN, UNAVAILABLE, DEADLINE_EXCEEDED, HTTP 5xx,
    and a refusal without words ("wordless").

    http_url: of the same server; without it gRPC alone is tried.
    """
    with contextlib.closing(channel(url)) as line:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(line)
        return Counter(one(stub, url, http_url, seed, number) for number in range(count))


def one(stub, url: str, http_url: str | None, seed: int, number: int) -> str:
    """Send request `number` of a seed; what came of it."""
    rng = np.random.default_rng([seed, number])
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    if kind == "http" and http_url:
        return send_http(http_url, rng)
    if kind == "garbage":
        return send_garbage(http_url if http_url and rng.random() < 0.5 else url, rng)
    return send(stub, request(rng))


def send(stub, message: service_pb2.ModelInferRequest) -> str:
    """Send one message; "answered", a status, or a status and words where it is none that a refusal should have."""
    try:
        stub.ModelInfer(message, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        status, words = error.code().name, error.details() or ""
        if status in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED") or "Traceback" in words:
            return f"{status}: {message.model_name[:40]}: {' '.join(words.split())[:200]}"
        return status if len(words) > 10 else f"wordless {status}"
    return "answered"


def request(rng: np.random.Generator) -> service_pb2.ModelInferRequest:
    """A request that is right but for one to three faults, or one of random arrays to an inner step."""
    message = good(rng) if rng.random() < 0.6 else inner(rng)
    for _ in range(int(rng.integers(1, 4))):
        _pick(rng, FAULTS)(message, rng)
    return message


def good(rng: np.random.Generator) -> service_pb2.ModelInferRequest:
    """A small bright ball in dark noise, as the detector takes it."""
    shape = (24, 24, 12)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    data = np.abs(500 * ((places**2).sum(0) < 0.8) + rng.normal(0, 10, shape)).astype(np.float32)
    message = service_pb2.ModelInferRequest(model_name=DETECTOR)
    _add(message, VOLUME.name, "FP32", shape, data.tobytes())
    _add(message, AFFINE.name, "FP64", (4, 4), np.diag([1.0, 1, 2, 1]).tobytes())
    for tensor in OUTPUTS[: int(rng.integers(0, len(OUTPUTS) + 1))]:
        message.outputs.add(name=tensor.name)
    return message


def inner(rng: np.random.Generator) -> service_pb2.ModelInferRequest:
    """Random arrays to a step: ranks and types as it has them, extents and values as chance has it."""
    model = _pick(rng, list(INNER))
    message = service_pb2.ModelInferRequest(model_name=model)
    same = tuple(int(n) for n in rng.integers(1, 12, 5))
    for name, kind, declared in INNER[model]:
        shape = tuple(n if n > 0 else extent for n, extent in zip(declared, same[-len(declared) :], strict=True))
        if model == CNN and rng.random() < 0.5:
            shape = (same[0], 1, *PATCH)
        elif rng.random() < 0.2:
            shape = tuple(int(n) for n in rng.integers(0, 12, len(declared)))
        values = rng.normal(0, 10 ** rng.uniform(-2, 3), shape)
        if rng.random() < 0.5 and declared == (4, 4):
            values = np.eye(4)[: shape[0], : shape[1]]
        _add(message, name, kind, shape, values.astype(NUMPY_OF[kind]).tobytes() if kind in NUMPY_OF else rng.bytes(40))
    return message


def _add(message, name: str, kind: str, shape: Sequence[int], raw: bytes) -> None:
    message.inputs.add(name=name, datatype=kind, shape=list(shape))
    message.raw_input_contents.append(raw)


def _pick(rng: np.random.Generator, among: Sequence):
    return among[int(rng.integers(len(among)))]


def _other_shape(message, rng) -> None:
    """Extents that are negative, huge, overflowing or too many; the bytes stay."""
    if message.inputs:
        tensor = _pick(rng, message.inputs)
        tensor.shape[:] = [_pick(rng, NUMBERS) for _ in range(int(rng.integers(0, 7)))]


def _one_extent(message, rng) -> None:
    if message.inputs and (tensor := _pick(rng, message.inputs)).shape:
        tensor.shape[int(rng.integers(len(tensor.shape)))] = _pick(rng, NUMBERS)


def _other_type(message, rng) -> None:
    if message.inputs:
        _pick(rng, message.inputs).datatype = _pick(rng, TYPES)


def _other_bytes(message, rng) -> None:
    """More or fewer bytes than the shape says, or as many of chance."""
    if message.raw_input_contents:
        n = int(rng.integers(len(message.raw_input_contents)))
        old = message.raw_input_contents[n]
        size = len(old)
        new = _pick(rng, (old[:-1], old + b"\0", b"", old[: size // 2], old * 2, rng.bytes(size), rng.bytes(5), b"\xff" * size))
        message.raw_input_contents[n] = new


def _other_values(message, rng) -> None:
    """The right bytes, but other numbers: NaN, infinities, the largest, negative, constant."""
    for n, tensor in enumerate(message.inputs[: len(message.raw_input_contents)]):
        if tensor.datatype in NUMPY_OF and rng.random() < 0.5:
            kind = NUMPY_OF[tensor.datatype]
            array = np.frombuffer(message.raw_input_contents[n][: len(message.raw_input_contents[n]) // 8 * 8], kind).copy()
            odd = (np.nan, np.inf, -np.inf, 3e38, -1.0, 0.0, 1e-40) if kind in (np.float32, np.float64) else NUMBERS[:8]
            with np.errstate(all="ignore"):
                array[rng.random(array.shape) < _pick(rng, (0.01, 0.5, 1.0))] = _pick(rng, odd)
            message.raw_input_contents[n] = array.tobytes()


def _missing(message, rng) -> None:
    if message.inputs:
        n = int(rng.integers(len(message.inputs)))
        del message.inputs[n]
        if n < len(message.raw_input_contents) and rng.random() < 0.7:
            del message.raw_input_contents[n]


def _extra(message, rng) -> None:
    _add(message, _pick(rng, NAMES), _pick(rng, TYPES), (2,), rng.bytes(8))


def _duplicate(message, rng) -> None:
    if message.inputs:
        message.inputs.add().CopyFrom(message.inputs[0])
        message.raw_input_contents.extend(message.raw_input_contents[:1])


def _typed_contents(message, rng) -> None:
    """Values in the typed field, beside or in place of the raw bytes."""
    if message.inputs:
        tensor = _pick(rng, message.inputs)
        tensor.contents.fp32_contents.extend(rng.normal(size=int(rng.integers(1, 40))).tolist())
        if rng.random() < 0.3:
            tensor.contents.bytes_contents.append(rng.bytes(3))
        if rng.random() < 0.5:
            del message.raw_input_contents[:]


def _other_output(message, rng) -> None:
    output = message.outputs.add(name=_pick(rng, NAMES))
    if rng.random() < 0.5:
        output.parameters["classification"].int64_param = _pick(rng, NUMBERS)


def _other_name(message, rng) -> None:
    if message.inputs:
        _pick(rng, message.inputs).name = _pick(rng, NAMES)


def _other_model(message, rng) -> None:
    if rng.random() < 0.5:
        message.model_name = _pick(rng, (*MODELS, *NAMES))
    message.model_version = _pick(rng, VERSIONS)


def _shared_memory(message, rng) -> None:
    """A region that nobody registered, of any size and offset."""
    tensors = [*message.inputs, *message.outputs]
    if tensors:
        parameters = _pick(rng, tensors).parameters
        parameters["shared_memory_region"].string_param = _pick(rng, ("none", "", "../x", "a" * 5000))
        parameters["shared_memory_byte_size"].int64_param = _pick(rng, NUMBERS)
        parameters["shared_memory_offset"].int64_param = _pick(rng, NUMBERS)


def _parameters(message, rng) -> None:
    names = (
        "sequence_id",
        "sequence_start",
        "priority",
        "timeout",
        "triton_enable_empty_final_response",
        "binary_data_output",
        "x",
    )
    where = _pick(rng, [message, *message.inputs, *message.outputs])
    parameter = where.parameters[_pick(rng, names)]
    field = _pick(rng, ("bool_param", "int64_param", "string_param", "double_param"))
    value = {"bool_param": True, "int64_param": _pick(rng, NUMBERS), "string_param": "☃" * 9, "double_param": float("nan")}[field]
    setattr(parameter, field, value)


def _identity(message, rng) -> None:
    message.id = _pick(rng, ("", "x" * 100_000, "\0\n", "☃"))


FAULTS: tuple[Callable, ...] = (
    _other_shape,
    _one_extent,
    _other_type,
    _other_bytes,
    _other_values,
    _missing,
    _extra,
    _duplicate,
    _typed_contents,
    _other_output,
    _other_name,
    _other_model,
    _shared_memory,
    _parameters,
    _identity,
)


def main(arguments: Sequence[str]) -> int:
    """Print what came of the requests. 0 when none came out as it never should."""
    url, http_url, count, seed = (*arguments, *("", "", "1000", "0")[len(arguments) :])
    outcomes = fuzz(url, int(count), int(seed), http_url or None)
    sys.stdout.write("".join(f"{n:7d}  {outcome}\n" for outcome, n in outcomes.most_common()))
    return 1 if any(":" in outcome or outcome.startswith("wordless") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
