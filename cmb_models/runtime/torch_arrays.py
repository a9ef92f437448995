"""The array work of `detect` by torch, on a CUDA device: there a scan crosses to the device once, as stored."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cmb_models.arrays import smooth_and_interpolate
from cmb_models.runtime.accelerator import device_error, host
from cmb_models.runtime.torch import open_torch_device, release_spare_memory

BLOCK = 512  # unit vectors that are resampled together


class TorchArrays:
    """Arrays by torch; see cmb_models.arrays.Arrays.

    Args:
        device: As for `open_torch_device`.

    Raises:
        DeviceFailed: If it cannot be used.
    """

    def __init__(self, device: str = "cuda") -> None:
        self._device, self.name = open_torch_device(device)
        self._weights: dict[tuple[int, int, float], Tensor] = {}  # of `resampled`, for the grids of one protocol

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Within it faults of the device are raised as DeviceFailed."""
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:
            if self._device.type != "cuda" and not isinstance(error, torch.OutOfMemoryError):
                raise
            raise device_error(error) from error
        finally:
            release_spare_memory(self._device)

    def array(self, values: np.ndarray | Tensor) -> Tensor:
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self._device)

    def host(self, array: np.ndarray | Tensor) -> np.ndarray:
        return host(array)

    def float32(self, array: Tensor) -> Tensor:
        return array.float()

    def float64(self, array: Tensor) -> Tensor:
        return array.double()

    def is_finite(self, array: Tensor) -> Tensor:
        return torch.isfinite(array)

    def percentiles(self, array: Tensor, q: Sequence[float]) -> Sequence[float]:
        if not array.numel():
            return (math.nan,) * len(q)
        ordered = array.ravel().sort().values
        places = [(len(ordered) - 1) * percent / 100 for percent in q]
        lower = [int(place) for place in places]
        pairs = ordered[torch.tensor([[n, min(n + 1, len(ordered) - 1)] for n in lower], device=ordered.device)].tolist()
        return tuple(a + (b - a) * (place - n) for (a, b), place, n in zip(pairs, places, lower, strict=True))

    def joined(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), dim=axis)

    def full(self, shape: Sequence[int], value: float) -> Tensor:
        return torch.full(tuple(shape), value, dtype=torch.float32, device=self._device)

    def padded(self, array: Tensor, after: Sequence[int], value: float) -> Tensor:
        i, j, k = after
        return functional.pad(array, (0, k, 0, j, 0, i), value=value)

    def oriented(self, array: Tensor, orientation: np.ndarray) -> Tensor:
        flipped = [axis for axis, sign in enumerate(orientation[:, 1]) if sign < 0]
        return array.flip(flipped).permute(*np.argsort(orientation[:, 0]).tolist()).contiguous()

    def resampled(self, array: Tensor, factor: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
        for axis, (f, size) in enumerate(zip(factor.tolist(), shape, strict=True)):
            weights = self._axis_weights(array.shape[axis], size, f)
            array = torch.tensordot(weights, array, dims=([1], [axis])).movedim(0, axis)
        return array.contiguous()

    def _axis_weights(self, size: int, samples: int, factor: float) -> Tensor:
        """`smooth_and_interpolate` along one axis as a matrix (samples, size): what it makes of the unit vectors."""
        key = (size, samples, factor)
        weights = self._weights.get(key)
        if weights is None:
            blocks = []
            for first in range(0, size, BLOCK):  # all unit vectors of a long axis at once would take gigabytes
                units = np.eye(size, min(BLOCK, size - first), -first)
                blocks.append(smooth_and_interpolate(units, np.array([factor, 1.0]), (samples, units.shape[1])).astype(np.float32))
            weights = self.array(np.concatenate(blocks, axis=1))
            if len(self._weights) > 30:  # ten protocols; a server sees scans of many
                self._weights.clear()
            self._weights[key] = weights
        return weights

    def phasors(self, radians: Tensor) -> Tensor:
        return torch.polar(torch.ones_like(radians), radians)

    def angle(self, vectors: Tensor) -> Tensor:
        return torch.angle(vectors)

    def sine(self, radians: Tensor) -> Tensor:
        return torch.sin(radians)

    def closed(self, array: Tensor, size: Sequence[int]) -> Tensor:
        # SciPy's boxes: of an even size the erosion's reaches one further down, the dilation's one further up. Its mirrored edge
        # adds no value that the box does not hold already.
        raised = _highest(array, [((n - 1) // 2, n // 2) for n in size])
        return -_highest(-raised, [(n // 2, (n - 1) // 2) for n in size])

    def level(self, heatmap: Tensor, floor: float, most: int) -> float:
        """The floor: here all peaks cost the same."""
        return floor

    def peaks(self, heatmap: Tensor, level: float) -> tuple[np.ndarray, np.ndarray]:
        highest = _highest(heatmap, [(1, 1)] * 3)
        index = ((heatmap >= level) & (heatmap == highest)).nonzero()
        return self.host(index), self.host(heatmap[tuple(index.T)])


def _highest(array: Tensor, reach: Sequence[tuple[int, int]]) -> Tensor:
    """The highest value of a box that reaches so many voxels down and up along each axis."""
    (i, i2), (j, j2), (k, k2) = reach
    padded = functional.pad(array[None, None], (k, k2, j, j2, i, i2), value=-math.inf)
    return functional.max_pool3d(padded, [low + high + 1 for low, high in reach], stride=1)[0, 0]
