"""What a network on a CUDA device offers, by whichever library it runs."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class DeviceFailed(Exception):
    """A CUDA device cannot be used, or not any longer; the text says why."""


class DoesNotFit(DeviceFailed):
    """An input for which the device's memory is too small, even in parts."""


class Accelerated(Protocol):
    """A network on a device. Raises DeviceFailed."""

    name: str

    def __call__(self, array: np.ndarray) -> np.ndarray: ...
