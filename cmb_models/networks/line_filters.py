"""The filters of detect/line_filters.py in torch, in front of both networks; line_filters_onnx.py writes them into a release."""

from __future__ import annotations

import torch
from torch import nn

from cmb_models.detect.line_filters import ACROSS, HALF, IN_PLANE, MARGIN, OBLIQUE, Direction, along, reach


class BottomHatFilter(nn.Module):
    """(N, C, I, J, K) images to (N, C + 2, I, J, K): as detect.line_filters.dark_spots, of channel 0; the others are handed on."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        others = [images[:, 1:]] if images.shape[1] > 1 else []
        return channels(images[:, :1], others, _Torch).contiguous(memory_format=torch.channels_last_3d)


class _Torch:
    """What the filters are made of, for tensors."""

    maximum, minimum, minus = torch.maximum, torch.minimum, torch.sub

    @staticmethod
    def padded(image: torch.Tensor, margin: tuple[int, int, int]) -> torch.Tensor:
        i, j, k = margin
        image = image[:, 0][:, None]  # new strides: torch pads channels_last_3d ten times as slowly
        return nn.functional.pad(image, (k, k, j, j, i, i), mode="replicate")

    @staticmethod
    def joined(channels: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(channels, dim=1)


def channels(image, others, ops):
    """The three channels of an image, then `others`, by what `ops` offers: maximum, minimum, minus, padded, joined, as _Torch."""
    padded = ops.padded(image, MARGIN)
    within = _least_closing(padded, IN_PLANE, ops)
    everywhere = ops.minimum(ops.minimum(within, _least_closing(padded, ACROSS, ops)), _least_closing(padded, OBLIQUE, ops))
    return ops.joined([image, ops.minus(within, image), ops.minus(everywhere, image), *others])


def _least_closing(padded, directions: tuple[Direction, ...], ops):
    """The least of the grey closings (N, 1, I, J, K) by lines along `directions`, a key of HALF, of an image padded by MARGIN."""
    least = None
    for direction in directions:
        length = 2 * HALF[directions] + 1
        raised = along(reach(padded, direction, length), direction, length, ops.maximum)
        closed = along(raised, direction, length, ops.minimum)
        least = closed if least is None else ops.minimum(least, closed)
    return least
