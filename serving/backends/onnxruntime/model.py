"""A stand-in for Triton's `onnxruntime` backend: runs model.onnx with cmb_models.runtime on the device that $CMB_DEVICE names.

The same model repository works with the real backend. Supports this project's models: one input, one output.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from cmb_models.errors import InputError, to_status
from cmb_models.runtime.device import open_network, requested_device
from cmb_models.serving.triton.device_metric import DeviceMetric
from cmb_models.serving.triton.step import cancelled, card_of

# Elements of an input. A prepared scan has fewer (detect/checks.py, with padding); the limit protects the memory from direct
# requests.
MAX_ELEMENTS = 40_000_000


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        file = Path(args["model_repository"]) / args["model_version"] / (config.get("default_model_filename") or "model.onnx")
        try:
            self.network = open_network(file, self.input, self.output, requested_device(), card=card_of(args))
        except InputError as error:
            raise pb.TritonModelException(str(error)) from error
        self.metric = DeviceMetric(args, self.network)

    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        if request.is_cancelled():
            return cancelled()
        array = pb.get_input_tensor_by_name(request, self.input).as_numpy()
        if not 0 < array.size <= MAX_ELEMENTS:
            message = f"{self.input}: expected 1 to {MAX_ELEMENTS} numbers, got shape {array.shape}; send scans to the detector"
            return pb.InferenceResponse(error=pb.TritonError(message, pb.TritonError.INVALID_ARG))
        try:
            result = self.network(array)
        except RuntimeError as error:  # the only exception type of OpenVINO
            if "shape" not in str(error).lower():
                return failed(error)
            message = f"{self.input}: expected a shape that the network takes, got {array.shape}; send scans to the detector"
            return pb.InferenceResponse(error=pb.TritonError(message, pb.TritonError.INVALID_ARG))
        except Exception as error:  # one failed request must not fail the others
            return failed(error)
        return pb.InferenceResponse([pb.Tensor(self.output, np.ascontiguousarray(result))])


def failed(error):
    """An internal error as the response."""
    text = to_status(error) if isinstance(error, InputError) else str(error)
    return pb.InferenceResponse(error=pb.TritonError(text, pb.TritonError.INTERNAL))
