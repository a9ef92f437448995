"""A release's network by torch on a CUDA device. What does not fit into the device's memory is run in parts."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmb_models.arrays import Array
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit, device_error, first_line
from cmb_models.runtime.onnx_torch import OnnxNetwork
from cmb_models.runtime.parts import run_in_parts
from cmb_models.runtime.torch import open_torch_device, release_spare_memory

# Two scans at once would not be faster and need twice the memory; and cuDNN's flags are the process's.
ONE_AT_A_TIME = threading.Lock()


class TorchNetwork:
    """Raises DeviceFailed if the device cannot be used, DoesNotFit for an input that is too large even in parts.

    device: as for `open_torch_device`.
    """

    def __init__(self, file: Path, device: str = "cuda") -> None:
        self._device, self.name = open_torch_device(device)
        try:
            self._network = OnnxNetwork(file, self._device)
        except RuntimeError as error:
            raise DeviceFailed(first_line(error)) from error

    def __call__(self, array: Array) -> Array:
        """The network's output for its input, both float32 and both where the input is: in main memory or on the device."""
        with ONE_AT_A_TIME:
            try:
                image = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
                where, image = image.device, image.to(self._device)
                reach, multiple = self._network.reach, self._network.multiple
                result = run_in_parts(self._run, image, reach, multiple, torch.OutOfMemoryError, torch.cat).to(where)
            except RuntimeError as error:
                of_input = "shape" in str(error) or "size" in str(error)
                if of_input and not isinstance(error, torch.OutOfMemoryError):
                    raise
                raise device_error(error) from error
            finally:
                release_spare_memory(self._device)
        return result if isinstance(array, Tensor) else result.numpy()

    def _run(self, image: Tensor) -> Tensor:
        # TF32, cuDNN's default for float32 convolutions, moves scores by more than a release may differ from what was judged.
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return self._network(image)
        except RuntimeError as error:
            if isinstance(device_error(error), DoesNotFit):  # cuDNN and cuBLAS raise others than torch
                raise torch.OutOfMemoryError(first_line(error)) from None
            raise
