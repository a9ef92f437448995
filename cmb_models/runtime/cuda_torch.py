"""A release's network by torch on a CUDA device. What does not fit into the device's memory is run in parts."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmb_models.arrays import Array
from cmb_models.runtime.accelerator import DeviceFailed, DoesNotFit, first_line
from cmb_models.runtime.onnx_torch import OnnxNetwork
from cmb_models.runtime.parts import run_in_parts
from cmb_models.runtime.torch import open_torch_device

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
            except torch.OutOfMemoryError as error:
                raise DoesNotFit(first_line(error)) from error
            except RuntimeError as error:
                if "shape" in str(error) or "size" in str(error):  # of the input, not of the device
                    raise
                raise DeviceFailed(first_line(error)) from error
        return result if isinstance(array, Tensor) else result.numpy()

    def _run(self, image: Tensor) -> Tensor:
        # TF32, cuDNN's default for float32 convolutions, moves scores by more than a release may differ from what was judged.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._network(image)
