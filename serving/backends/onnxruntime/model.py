"""A Triton backend named `onnxruntime` for where the real one is missing: runs model.onnx on the CPU by cmb_models.inference.

The model repository stays the same on a machine with the real backend. Written for this project's models: one input, one output.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from cmb_models.inference.cpu import open_onnx


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
        try:
            result = self.network(array)
        except Exception as error:  # one bad request must not fail the others
            return pb.InferenceResponse(error=pb.TritonError(str(error), pb.TritonError.INTERNAL))
        return pb.InferenceResponse([pb.Tensor(self.output, np.ascontiguousarray(result))])
