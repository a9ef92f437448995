"""A release's network by ONNX Runtime's CUDA provider. What does not fit into the device's memory is run in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from cmb_models.arrays import Array
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit, host
from cmb_models.runtime.parts import geometry, run_in_parts

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OutOfMemory(Exception):
    """The device's memory is too small for an input."""


class OnnxruntimeNetwork:
    """Raises DeviceFailed if the device cannot be used, DoesNotFit for an input that is too large even in parts.

    provider: CPU runs the same code without CUDA, for tests.
    """

    def __init__(self, file: Path, input_name: str, output_name: str, provider: str = CUDA, card: int = 0) -> None:
        self.name = f"ONNX Runtime ({provider})"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # TF32 moves scores by more than a release may differ from what was judged.
        of_cuda = {"device_id": str(card), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        chosen = (provider, of_cuda if provider == CUDA else {})
        try:
            self._session = ort.InferenceSession(str(file), options, providers=[chosen])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise DeviceFailed(str(error).splitlines()[0]) from error
        if provider not in self._session.get_providers():
            raise DeviceFailed("ONNX Runtime's CUDA provider could not be loaded: check the versions of CUDA and cuDNN")
        self._input, self._output = input_name, output_name
        self._reach, self._multiple = geometry(file)

    def __call__(self, array: Array) -> np.ndarray:
        """The network's output, in main memory, for its input, both float32."""
        try:
            result: np.ndarray = run_in_parts(self._run, host(array), self._reach, self._multiple, OutOfMemory)
            return result
        except OutOfMemory as error:
            raise DoesNotFit(str(error)) from error

    def _run(self, array: np.ndarray) -> np.ndarray:
        try:
            result: np.ndarray = self._session.run([self._output], {self._input: np.ascontiguousarray(array)})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base
            text = str(error).splitlines()[0]
            if "allocate" in text or "out of memory" in text:
                raise OutOfMemory(text) from error
            if "shape" in text or "dimension" in text:
                raise
            raise DeviceFailed(text) from error
        return result
