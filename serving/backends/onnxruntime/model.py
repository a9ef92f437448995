"""A Triton backend named `onnxruntime` for where the real one is missing: runs model.onnx on the CPU by cmb_models.runtime.cpu.

The model repository stays the same on a machine with the real backend. Written for this project's models: one input, one output.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from cmb_models.runtime.cpu import open_onnx

# Numbers in one array. A prepared scan has fewer (detect/checks.py, with padding); who asks this step directly could make it take
# all the memory there is.
MOST_NUMBERS = 40_000_000


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        file = Path(args["model_repository"]) / args["model_version"] / (config.get("default_model_filename") or "model.onnx")
        self.network = open_onnx(file, self.input, self.output)

    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        array = pb.get_input_tensor_by_name(request, self.input).as_numpy()
        if not 0 < array.size <= MOST_NUMBERS:
            words = f"{self.input}: expected 1 to {MOST_NUMBERS} numbers, got shape {array.shape}; send scans to the detector"
            return pb.InferenceResponse(error=pb.TritonError(words, pb.TritonError.INVALID_ARG))
        try:
            result = self.network(array)
        except RuntimeError as error:  # OpenVINO has one kind of exception
            if "shape" not in str(error).lower():
                return failed(error)
            words = f"{self.input}: expected a shape that the network takes, got {array.shape}; send scans to the detector"
            return pb.InferenceResponse(error=pb.TritonError(words, pb.TritonError.INVALID_ARG))
        except Exception as error:  # one bad request must not fail the others
            return failed(error)
        return pb.InferenceResponse([pb.Tensor(self.output, np.ascontiguousarray(result))])


def failed(error):
    """The answer to a request that failed through no fault of its own."""
    return pb.InferenceResponse(error=pb.TritonError(str(error), pb.TritonError.INTERNAL))
