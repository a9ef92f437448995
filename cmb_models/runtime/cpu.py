"""Run a release's networks on a CPU: OpenVINO for the convolutions, NumPy for the fixed filters in front of them.

`benchmarks/serving` compares this with ONNX Runtime and torch; all answer within the parity bound. The evaluation and the CPU
server both open files here.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.detect.line_filters import dark_spots
from cmb_models.machine import cores

log = logging.getLogger(__name__)

SPOTS = "spots"  # name of the tensor that the fixed filters end in, given at export; a file without it runs whole
RUNTIMES = ("openvino", "onnxruntime")
Network = Callable[[np.ndarray], np.ndarray]


def open_onnx(file: Path, input_name: str, output_name: str, threads: int = 0, runtime: str | None = None) -> Network:
    """One ONNX file as a callable from its input array to its output array, usable from many threads.

    threads: 0 for all cores. runtime: OpenVINO if None, or ONNX Runtime where OpenVINO is not installed.
    """
    if runtime is None:
        runtime = _installed_runtime()
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime: expected one of {RUNTIMES}, got {runtime!r}")
    opened = _with_openvino if runtime == "openvino" else _with_onnxruntime
    return opened(Path(file), input_name, output_name, threads or cores())


def _installed_runtime() -> str:
    if importlib.util.find_spec("openvino") or not importlib.util.find_spec("onnxruntime"):
        return "openvino"
    log.info("OpenVINO is not installed: ONNX Runtime runs the networks on the CPU")
    return "onnxruntime"


def _with_openvino(file: Path, input_name: str, output_name: str, threads: int) -> Network:
    import openvino  # imported here: a client that only sends scans does not install it

    core = openvino.Core()
    graph = core.read_model(str(file))
    front = _cut_at_spots(graph)
    name = SPOTS if front else input_name
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 moves scores by up to .01
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # several networks share the cores by turns
    }
    compiled = core.compile_model(graph, "CPU", options)
    of_thread = threading.local()  # a request holds the activations, and serves one call at a time

    def run(array: np.ndarray) -> np.ndarray:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        given = dark_spots(array, threads) if front else np.ascontiguousarray(array)
        return np.array(of_thread.request.infer({name: given})[output_name])  # copied: the request writes there again

    return run


def _cut_at_spots(graph: Any) -> bool:
    """Let a graph begin at its tensor SPOTS, if it has one, which is then an input (N, C + 2, I, J, K). Returns whether it has.

    The filters are a hundred maxima and minima of shifted images, which runtimes compute by copying each shift.
    """
    import openvino

    outputs = [output for node in graph.get_ops() for output in node.outputs() if SPOTS in output.get_names()]
    for output in outputs:
        channels = output.get_partial_shape()[1].get_length()
        begin = openvino.opset15.parameter([-1, channels, -1, -1, -1], np.float32, name=SPOTS)
        begin.output(0).set_names({SPOTS})
        for target in output.get_target_inputs():
            target.replace_source_output(begin.output(0))
        for old in graph.get_parameters():
            graph.remove_parameter(old)
        graph.add_parameters([begin])
        graph.validate_nodes_and_infer_types()
    return bool(outputs)


def _with_onnxruntime(file: Path, input_name: str, output_name: str, threads: int) -> Network:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Between scans the threads sleep: spinning would take the cores from the server's Python steps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda array: session.run([output_name], {input_name: array})[0]
