"""3D convolutions whose weight gradients are computed slice by slice: faster without AVX-512 (docs/explanation/hardware.md).

For float32 in channels-last order and AVX2, oneDNN has a kernel for weight gradients of 2D convolutions; for 3D ones it multiplies
matrices of unfolded patches, which took more than a third of a training step. So the first axis of a volume is taken as part of the
batch, and each of the three positions of the kernel along it is a 2D convolution. Values differ from torch's own by rounding alone.
With AVX-512 torch's own way is the faster one and stays, as it does for inference, bfloat16 and CUDA.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import conv3d

ONE = (1, 1, 1)


class Conv3d(nn.Conv3d):
    """nn.Conv3d with kernels of one or three voxels along the first axis. Parameters, state and results are those of nn.Conv3d."""

    def _conv_forward(self, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not (self.training and _gains(image, weight)):
            return super()._conv_forward(image, weight, bias)
        if self.kernel_size == ONE:  # torch has no fast kernel for few channels
            return nn.functional.linear(image.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        result = _SlicedWeightGradient.apply(image, weight, self.stride, self.padding)
        return result if bias is None else result + bias[:, None, None, None]


def with_sliced_gradients(network: nn.Module) -> nn.Module:
    """Make a `Conv3d` of every convolution of a network that can be one, in place; returns the network."""
    for module in network.modules():
        if type(module) is nn.Conv3d and _fits(module):
            module.__class__ = Conv3d
    return network


@functools.cache
def lacks_avx512() -> bool:
    """Whether oneDNN runs on an x86 processor without AVX-512: it has none, or $ONEDNN_MAX_CPU_ISA hides it.

    torch does not say what oneDNN uses; with AVX-512 it reports bfloat16 kernels, and without mostly not.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _fits(module: nn.Conv3d) -> bool:
    if module.groups != 1 or module.dilation != ONE or module.padding_mode != "zeros":
        return False
    if module.kernel_size == ONE:
        return module.stride == ONE and module.padding == (0, 0, 0)
    return module.kernel_size[0] == 3 and module.padding[0] == 1


def _gains(image: torch.Tensor, weight: torch.Tensor) -> bool:
    trains = torch.is_grad_enabled() and weight.requires_grad and not torch.is_autocast_enabled("cpu")
    return trains and image.device.type == "cpu" and image.dtype == weight.dtype == torch.float32 and lacks_avx512()


class _SlicedWeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, weight, stride, padding):
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv3d(image, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, gradient):
        image, weight = ctx.saved_tensors
        of_image = None
        if ctx.needs_input_grad[0]:
            of_image = _backward(gradient, image, weight, ctx.stride, ctx.padding, (True, False, False))[0]
        return of_image, weight_gradient(gradient, image, weight.shape, ctx.stride, ctx.padding), None, None


def weight_gradient(
    gradient: torch.Tensor, image: torch.Tensor, shape: torch.Size, stride: tuple[int, ...], padding: tuple[int, ...]
) -> torch.Tensor:
    """Gradient of the weights of a convolution with three voxels and one of zero padding along the first axis.

    Args:
        gradient: (N, O, I', J', K') gradient of the convolution's output.
        image: (N, C, I, J, K) the convolution's input.
        shape: (O, C, 3, j, k) of the weights.
        stride: of the convolution, per axis.
        padding: zeros on either side, per axis, the first 1.

    Returns:
        (O, C, 3, j, k), of `image`'s type.
    """
    flat = image.new_empty((*shape[:2], *shape[3:]))

    def of_slices(gradient: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return _backward(gradient, image, flat, stride[1:], padding[1:], (False, True, False))[1]

    if stride[0] == 1:
        return torch.stack(_of_neighbours(_as_slices(gradient), _as_slices(image), image.shape[0], of_slices), dim=2)
    parts = []
    for offset in (-1, 0, 1):
        # Output slice n has met input slice n * stride + offset, where there is one.
        first = 1 if offset < 0 else 0
        last = min(gradient.shape[2], (image.shape[2] - 1 - offset) // stride[0] + 1)
        met = image[:, :, first * stride[0] + offset :: stride[0]][:, :, : last - first]
        pair = _as_slices(gradient[:, :, first:last]), _as_slices(met)
        parts.append(of_slices(*pair) if last > first else torch.zeros_like(flat))
    return torch.stack(parts, dim=2)


def _of_neighbours(gradient: torch.Tensor, image: torch.Tensor, count: int, of_slices: Callable) -> list[torch.Tensor]:
    """The three parts of the weights' gradient, from all slices of `count` volumes in a row, with stride 1.

    Shifted by one, the row is a view. Where volumes join, slices of two volumes meet: these few pairs are computed once more and
    taken away.
    """
    length = len(image) // count

    def of_pairs(gradient: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        part = of_slices(gradient, image)
        if count == 1:
            return part
        joints = (slices.index_select(0, _joints(count, length)) for slices in (gradient, image))
        return part - of_slices(*(slices.contiguous(memory_format=torch.channels_last) for slices in joints))

    middle = of_slices(gradient, image)
    if length == 1:
        return [torch.zeros_like(middle), middle, torch.zeros_like(middle)]
    return [of_pairs(gradient[1:], image[:-1]), middle, of_pairs(gradient[:-1], image[1:])]


@functools.cache
def _joints(count: int, length: int) -> torch.Tensor:
    """Positions, in a row of pairs of neighbouring slices, of the pairs that join one volume with the next."""
    return torch.arange(1, count) * length - 1


def _as_slices(volumes: torch.Tensor) -> torch.Tensor:
    """(N, C, I, J, K) to (N * I, C, J, K) in channels-last order: a view of what is in that order already."""
    return volumes.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _backward(gradient, image, weight, stride, padding, wanted: tuple[bool, bool, bool]):
    """Gradients of a convolution by torch for image, weights and bias; None for those not wanted."""
    ones, zeros = [1] * (image.ndim - 2), [0] * (image.ndim - 2)
    return torch.ops.aten.convolution_backward(
        gradient, image, weight, None, list(stride), list(padding), ones, False, zeros, 1, list(wanted)
    )
