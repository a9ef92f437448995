"""A Triton backend named `onnxruntime` for where the real one is missing: opens model.onnx with the onnxruntime wheel, on the CPU.

The model repository stays the same on a machine with the real backend. Written for this project's models: one input, one output.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

# Numbers in one array. A prepared scan has fewer (detect/checks.py, with padding); who asks this step directly could make it take
# all the memory there is.
MOST_NUMBERS = 40_000_000


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Between scans the threads sleep: spinning would take the cores from the Python steps.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(args["model_repository"]) / args["model_version"] / (config.get("default_model_filename") or "model.onnx")
        self.session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        array = pb.get_input_tensor_by_name(request, self.input).as_numpy()
        if not 0 < array.size <= MOST_NUMBERS:
            words = f"{self.input}: expected 1 to {MOST_NUMBERS} numbers, got shape {array.shape}; send scans to the detector"
            return pb.InferenceResponse(error=pb.TritonError(words, pb.TritonError.INVALID_ARG))
        try:
            result = self.session.run([self.output], {self.input: array})[0]
        except InvalidArgument as error:  # a shape that the network cannot take
            return pb.InferenceResponse(error=pb.TritonError(str(error), pb.TritonError.INVALID_ARG))
        except Exception as error:  # one bad request must not fail the others
            return pb.InferenceResponse(error=pb.TritonError(str(error), pb.TritonError.INTERNAL))
        return pb.InferenceResponse([pb.Tensor(self.output, np.ascontiguousarray(result))])
