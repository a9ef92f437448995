"""The filters of detect/spots.py in torch: in front of stage 1 in training, and inside a release's own graph."""

from __future__ import annotations

import torch
from torch import nn

from cmb_models.detect.spots import ACROSS, HALF, IN_PLANE, OBLIQUE, Direction, along


class DarkSpots(nn.Module):
    """(N, 1, I, J, K) images to (N, 3, I, J, K): the image, how far lines within slices fill it, and lines in all directions."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        within = least_closing(image, IN_PLANE)
        everywhere = torch.minimum(torch.minimum(within, least_closing(image, ACROSS)), least_closing(image, OBLIQUE))
        channels = torch.cat([image, within - image, everywhere - image], dim=1)
        return channels.contiguous(memory_format=torch.channels_last_3d)


def least_closing(image: torch.Tensor, directions: tuple[Direction, ...]) -> torch.Tensor:
    """The least of the grey closings (N, 1, I, J, K) by lines along `directions`, a key of HALF. Beyond the edge it goes on."""
    least = None
    for direction in directions:
        closed = _closing(image, direction, HALF[directions])
        least = closed if least is None else torch.minimum(least, closed)
    return least


def _closing(image: torch.Tensor, direction: Direction, half: int) -> torch.Tensor:
    i, j, k = (2 * half * abs(d) for d in direction)
    padded = nn.functional.pad(image, (k, k, j, j, i, i), mode="replicate")
    return along(along(padded, direction, 2 * half + 1, torch.maximum), direction, 2 * half + 1, torch.minimum)
