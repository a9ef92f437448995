"""Where a release's networks run: on a CUDA device that works, or on the CPU.

A network on a CUDA device is compared with the CPU on a small input before it is used. Where CUDA fails later, `auto` continues on
the CPU.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.errors import InputError
from cmb_models.runtime.accelerator import Accelerated, AcceleratedArrays, DeviceFailed, DoesNotFit, Named, first_line, host
from cmb_models.runtime.cpu import Network, open_onnx

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
VARIABLE = "CMB_DEVICE"  # the device of a server's networks
Result = TypeVar("Result")
Library = TypeVar("Library", bound=Named)
PARITY = 1e-3  # largest difference of a score from the CPU's with which a device is used; the bound on an export


@dataclass(kw_only=True)
class OnDevice(Generic[Library]):
    """What runs on a device, or on the CPU, and why.

    requested: the device asked for. accelerated: what runs on it; None on the CPU. reason: why it is not the requested one, or ''.
    on_fallback: called with one sentence whenever the CPU takes over.
    """

    requested: str
    accelerated: Library | None = None
    reason: str = ""
    on_fallback: Callable[[str], None] = field(default=log.warning)

    @property
    def name(self) -> str:
        """The device in use: "cpu" or the CUDA device's name."""
        return self.accelerated.name if self.accelerated else "cpu"

    def __str__(self) -> str:
        return self.name + (f" ({self.reason})" if self.reason else "")

    def fall_back(self, error: DeviceFailed, case: object) -> None:
        """Continue on the CPU after a failure. An input that is too large leaves the device in use for others.

        Raises:
            InputError: If `cuda` was requested (device-failed, device-memory).
        """
        if self.requested == "cuda":
            raise _failed(error, case) from error
        failed = self.name
        if not isinstance(error, DoesNotFit):
            self.accelerated, self.reason = None, str(error)
        self.on_fallback(f"{case}: {failed} failed, the CPU is used: {error}")


@dataclass(kw_only=True)
class DeviceNetwork(OnDevice[Accelerated]):
    """A network that knows where it runs: the array in, the scores out. Usable from many threads."""

    file: Path
    cpu: Network

    def __call__(self, array: Array) -> Array:
        """Run the network on an array in main memory or on its device; the output may be in either.

        Raises:
            InputError: If `cuda` was requested and the device fails (device-failed), or its memory is too small (device-memory).
        """
        accelerated = self.accelerated
        if accelerated is not None:
            try:
                return accelerated(array)
            except DeviceFailed as error:
                self.fall_back(error, f"{self.file.name} for an input of {'×'.join(map(str, array.shape))}")
        return self.cpu(host(array))


@dataclass(kw_only=True)
class DeviceArrays(OnDevice[AcceleratedArrays]):
    """The array work around the networks; NumPy does it on the CPU. Usable from many threads."""

    def run(self, work: Callable[[Arrays], Result], case: object = "scan") -> Result:
        """Do `work` with the device's arrays, and again with NumPy's if the device fails.

        Raises:
            InputError: If `cuda` was requested and the device fails (device-failed), or its memory is too small (device-memory).
        """
        accelerated = self.accelerated
        if accelerated is not None:
            try:
                with accelerated.working():
                    return work(accelerated)
            except DeviceFailed as error:
                self.fall_back(error, case)
        return work(NUMPY)


def _failed(error: DeviceFailed, case: object) -> InputError:
    if isinstance(error, DoesNotFit):
        return InputError("device-memory", case, "an input that fits into the device's memory", str(error), "pass --device auto")
    remedy = "check `nvidia-smi`, restart the server or the command, or pass --device cpu"
    return InputError("device-failed", case, "a CUDA device that works", str(error), remedy)


def requested_device() -> str:
    """The device that the environment of a server requests."""
    return os.environ.get(VARIABLE) or "auto"


def is_of_device(error: InputError) -> bool:
    """Whether an error is a device's fault, not the scan's."""
    return error.code in ("device-failed", "device-memory")


def require_device(device: str, source: str) -> None:
    """Raise InputError, naming the option or variable `source`, unless `device` is one of DEVICES."""
    if device not in DEVICES:
        raise InputError("device-unknown", source, f"one of {', '.join(DEVICES)}", repr(device), "pass another")


def open_network(
    file: Path,
    input_name: str,
    output_name: str,
    device: str = "auto",
    threads: int = 0,
    opener: Callable[[Path, str, str], Accelerated] | None = None,
    card: int = 0,
) -> DeviceNetwork:
    """Open one ONNX file on a device.

    Args:
        file: The ONNX file.
        input_name: Name of its input.
        output_name: Name of its output.
        device: "cpu"; "cuda" for a CUDA device; "auto" for a CUDA device that works, else the CPU.
        threads: Threads on the CPU; 0 for all cores.
        opener: Opens the file on the accelerator; `open_on_cuda` if None.
        card: Number of the CUDA device.

    Raises:
        InputError: For an unknown device, and if "cuda" is requested and no CUDA device works.
    """
    require_device(device, "device")
    file = Path(file)
    cpu = open_onnx(file, input_name, output_name, threads)
    if device == "cpu":
        return DeviceNetwork(requested=device, file=file, cpu=cpu)
    try:
        accelerated = opener(file, input_name, output_name) if opener else open_on_cuda(file, input_name, output_name, card)
        _require_parity(accelerated, cpu, _small_input(file))
    except DeviceFailed as error:
        if device == "cuda":
            raise _failed(error, file) from error
        return DeviceNetwork(requested=device, reason=str(error), file=file, cpu=cpu)
    except InputError as error:  # the device's runtime does not support this network; the CPU's may
        if device == "cuda":
            raise
        return DeviceNetwork(requested=device, reason=error.got, file=file, cpu=cpu)
    return DeviceNetwork(requested=device, accelerated=accelerated, file=file, cpu=cpu)


def _require_parity(accelerated: Accelerated, cpu: Network, array: np.ndarray) -> None:
    apart = float(np.abs(accelerated(array) - cpu(array)).max())
    if not apart <= PARITY:
        raise DeviceFailed(f"{accelerated.name} differs from the CPU by {apart:.2g}, more than {PARITY}")


def _small_input(file: Path) -> np.ndarray:
    """Noise of a shape that the network takes: two patches, or 32 voxels along each free axis of a scan."""
    from cmb_models.runtime.parts import input_sizes  # imported here, as the device's libraries are: the CPU needs no onnx

    sizes = [size or (2 if axis == 0 else 32) for axis, size in enumerate(input_sizes(file))]
    return np.random.default_rng(0).standard_normal(sizes, dtype=np.float32)


def open_on_cuda(file: Path, input_name: str, output_name: str, card: int = 0) -> Accelerated:
    """Open a file by ONNX Runtime's CUDA provider where that is installed, else by torch. Raises DeviceFailed."""
    _require_driver()
    if _onnxruntime_has_cuda():
        from cmb_models.runtime.cuda_onnxruntime import OnnxruntimeNetwork

        return OnnxruntimeNetwork(file, input_name, output_name, card=card)
    try:
        from cmb_models.runtime.cuda_torch import TorchNetwork
    except (ImportError, OSError) as error:  # a library that is missing, or one of its parts
        raise DeviceFailed(f"neither onnxruntime-gpu nor torch with onnx is installed ({first_line(error)})") from error
    return TorchNetwork(file, f"cuda:{card}")


def _require_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")  # without a driver no library needs to be imported
    except OSError as error:
        raise DeviceFailed("no NVIDIA driver") from error


def _onnxruntime_has_cuda() -> bool:
    try:
        import onnxruntime
    except (ImportError, OSError):
        return False
    providers: Any = onnxruntime.get_available_providers()
    return "CUDAExecutionProvider" in providers


def open_arrays(device: str = "auto", card: int = 0, opener: Callable[[int], AcceleratedArrays] | None = None) -> DeviceArrays:
    """Where to do the array work of `detect`: by torch on the device, or by NumPy where it lacks torch or does not work.

    Args:
        device: "cpu", "cuda" or "auto", as for `open_network`. "cuda" too continues with NumPy: torch may be absent where ONNX
            Runtime runs the networks.
        card: Number of the CUDA device.
        opener: Opens the device's arrays; torch's if None.

    Raises:
        InputError: For an unknown device.
    """
    require_device(device, "device")
    if device == "cpu":
        return DeviceArrays(requested=device)
    try:
        arrays = (opener or _torch_arrays)(card)
        _require_same_arrays(arrays)
    except DeviceFailed as error:
        return DeviceArrays(requested=device, reason=str(error))
    return DeviceArrays(requested=device, accelerated=arrays)


def _torch_arrays(card: int) -> AcceleratedArrays:
    _require_driver()
    try:
        from cmb_models.runtime.torch_arrays import TorchArrays
    except (ImportError, OSError) as error:
        raise DeviceFailed(f"torch cannot be imported ({first_line(error)})") from error
    return TorchArrays(f"cuda:{card}")


def _require_same_arrays(arrays: AcceleratedArrays) -> None:
    image = np.random.default_rng(0).standard_normal((24, 20, 12), dtype=np.float32)
    factor, shape = np.array([1.5, 0.8, 1.0]), (16, 25, 12)
    with arrays.working():
        resampled = arrays.host(arrays.resampled(arrays.array(image), factor, shape))
    apart = float(np.abs(resampled - NUMPY.resampled(image, factor, shape)).max())
    if not apart <= PARITY:
        raise DeviceFailed(f"the device's resampling differs from the CPU's by {apart:.2g}, more than {PARITY}")
