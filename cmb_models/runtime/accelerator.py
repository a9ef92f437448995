"""What a network on a CUDA device offers, by whichever library it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from cmb_models.arrays import Array, Arrays


class DeviceFailed(Exception):
    """A CUDA device cannot be used, or not any longer; the text says why."""


class DoesNotFit(DeviceFailed):
    """An input for which the device's memory is too small, even in parts."""


class Named(Protocol):
    """name: of the device."""

    name: str


class Accelerated(Named, Protocol):
    """A network on a device, from and to arrays in main memory or on the device. Raises DeviceFailed."""

    def __call__(self, array: Array) -> Array: ...


class AcceleratedArrays(Named, Arrays, Protocol):
    """Array work on a device."""

    def working(self) -> AbstractContextManager[None]:
        """Within it faults of the device are raised as DeviceFailed."""


def host(array: Array) -> np.ndarray:
    """An array in main memory; not copied if it is there."""
    values: np.ndarray = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return values


def device_error(error: BaseException) -> DeviceFailed:
    """A library's error on a device: memory that is too small for this input, or a device that failed."""
    text = first_line(error)
    full = type(error).__name__ == "OutOfMemoryError" or any(words in text for words in ("out of memory", "ALLOC_FAILED"))
    return DoesNotFit(text) if full else DeviceFailed(text)


def first_line(error: BaseException) -> str:
    """Of an error's text: the libraries append hints over several lines."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
