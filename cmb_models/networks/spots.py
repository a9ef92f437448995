"""Where an image is dark like a spot rather than like a line: fixed filters in front of stage 1, in its own graph.

A closing by a short line fills every dark structure that is shorter along it. A spot is filled whichever way the line points, a
vein is not along its own course: the least filling over all directions is high in spots and near zero in vessels, sheets and
dark regions (after Zana and Klein 2001, IEEE TIP 10:1010, who separate vessels from lesions by the same idea). A network can
learn such a filter, but spends most of its steps on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Direction = tuple[int, int, int]
IN_PLANE: tuple[Direction, ...] = ((1, 0, 0), (0, 1, 0), (1, 1, 0), (1, -1, 0))
ACROSS: tuple[Direction, ...] = ((0, 0, 1),)
OBLIQUE: tuple[Direction, ...] = (
    *((2, 0, 1), (-2, 0, 1), (0, 2, 1), (0, -2, 1)),
    *((1, 1, 1), (-1, -1, 1), (1, -1, 1), (-1, 1, 1)),
)
HALF = {IN_PLANE: 4, ACROSS: 3, OBLIQUE: 2}  # steps to either side; at 1x1x2 mm lines of 9 to 14 mm, longer than a microbleed
CHANNELS = 3


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
    return _along(_along(padded, direction, 2 * half + 1, torch.maximum), direction, 2 * half + 1, torch.minimum)


def _along(image: torch.Tensor, direction: Direction, length: int, extreme: Callable) -> torch.Tensor:
    """The extreme of every run of `length` voxels along `direction`, whole runs alone: log2(length) passes rather than length."""
    span = 1
    while span < length:
        step = min(span, length - span)
        first, second = [slice(None)] * 2, [slice(None)] * 2
        for d, size in zip(direction, image.shape[2:], strict=True):
            low, high = slice(0, size - abs(d) * step), slice(abs(d) * step, size)
            first.append(low if d >= 0 else high)
            second.append(high if d >= 0 else low)
        image = extreme(image[tuple(first)], image[tuple(second)])
        span += step
    return image
