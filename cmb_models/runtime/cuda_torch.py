"""A release's network by torch on a CUDA device. What does not fit into the device's memory is run in parts."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch

from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit
from cmb_models.runtime.onnx_torch import OnnxNetwork
from cmb_models.runtime.parts import run_in_parts


class TorchNetwork:
    """Raises DeviceFailed if the device cannot be used, DoesNotFit for an input that is too large even in parts.

    device: "cpu" runs the same code without CUDA, for tests.
    """

    def __init__(self, file: Path, device: str = "cuda") -> None:
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device)  # its error says whether the driver, the device or CUDA in torch is missing
            self.name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "torch on the cpu"
            self._network = OnnxNetwork(file, self._device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceFailed(_first_line(error)) from error
        self._one_at_a_time = threading.Lock()  # two scans at once would not be faster, and need twice the memory

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The network's output for its input, both float32 in main memory."""
        with self._one_at_a_time:
            try:
                return run_in_parts(self._run, array, self._network.reach, self._network.multiple, torch.OutOfMemoryError)
            except torch.OutOfMemoryError as error:
                raise DoesNotFit(_first_line(error)) from error
            except RuntimeError as error:
                if "shape" in str(error) or "size" in str(error):  # of the input, not of the device
                    raise
                raise DeviceFailed(_first_line(error)) from error

    def _run(self, array: np.ndarray) -> np.ndarray:
        # TF32, cuDNN's default for float32 convolutions, moves scores by more than a release may differ from what was judged.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            result: np.ndarray = self._network(torch.from_numpy(np.ascontiguousarray(array)).to(self._device)).cpu().numpy()
        return result


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
