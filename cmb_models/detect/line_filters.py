"""Where an image is dark like a spot rather than like a line: fixed filters in front of both networks.

A closing by a short line fills every dark structure that is shorter along it. A spot is filled whichever way the line points, a
vein is not along its own course: the least filling over all directions is high in spots and near zero in vessels, sheets and
dark regions (after Zana and Klein 2001, IEEE TIP 10:1010, who separate vessels from lesions by the same idea). A network can
learn such a filter, but spends most of its steps on it, and with few steps it may not begin to.

Here in NumPy, for running a release on a CPU; networks/line_filters.py is the same in torch, for training and inside the release's
graph. Both take maxima and minima of the same numbers, so they agree to the last bit, which a test holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import EllipsisType
from typing import Any, Protocol, TypeVar

import numpy as np

from cmb_models.machine import cores

Direction = tuple[int, int, int]
IN_PLANE: tuple[Direction, ...] = ((1, 0, 0), (0, 1, 0), (1, 1, 0), (1, -1, 0))
ACROSS: tuple[Direction, ...] = ((0, 0, 1),)
OBLIQUE: tuple[Direction, ...] = (
    *((2, 0, 1), (-2, 0, 1), (0, 2, 1), (0, -2, 1)),
    *((1, 1, 1), (-1, -1, 1), (1, -1, 1), (-1, 1, 1)),
)
HALF = {IN_PLANE: 4, ACROSS: 3, OBLIQUE: 2}  # steps to either side; at 1x1x2 mm lines of 9 to 14 mm, longer than a microbleed
CHANNELS = 3  # that the filters make of one


class Sliceable(Protocol):
    """An array, a tensor or a node of a graph: slicing one gives another of its kind."""

    def __getitem__(self, key: Any, /) -> Any: ...


Image = TypeVar("Image", bound=Sliceable)
MARGIN = tuple(max(2 * half * abs(d[axis]) for directions, half in HALF.items() for d in directions) for axis in range(3))
SLAB_VOXELS = 2**18  # of the image at a time: its handful of buffers then stays in the processor's cache


def dark_spots(images: np.ndarray, threads: int = 0) -> np.ndarray:
    """Images with their filter responses as further channels, (N, C, I, J, K) float32 to (N, C + 2, I, J, K).

    The channels are channel 0, how far lines within slices fill it, lines in all directions, then the other channels unchanged.
    Beyond the edge an image continues with its outermost voxels. threads: 0 for one a core. N may be 0.
    """
    image = images[:, 0]
    padded = np.pad(image, [(0, 0), *((m, m) for m in MARGIN)], mode="edge")
    out = np.empty((len(images), CHANNELS - 1 + images.shape[1], *image.shape[1:]), dtype=np.float32)
    out[:, 0], out[:, CHANNELS:] = image, images[:, 1:]
    planes = max(4, SLAB_VOXELS // max(1, math.prod(image.shape[2:])))
    together = max(1, SLAB_VOXELS // max(1, math.prod(padded.shape[1:])))

    def slab(place: tuple[int, int]) -> None:
        rows, here = slice(place[0], place[0] + together), slice(place[1], min(place[1] + planes, image.shape[1]))
        within, everywhere = _fillings(padded[rows, here.start : here.stop + 2 * MARGIN[0]])
        np.subtract(within, image[rows, here], out=out[rows, 1, here])
        np.subtract(everywhere, image[rows, here], out=out[rows, 2, here])

    # A large image in slabs, small ones some at a time.
    places = [(n, low) for n in range(0, len(image), together) for low in range(0, image.shape[1], planes)]
    with ThreadPoolExecutor(threads or cores()) as pool:  # NumPy lets other threads run while it computes
        list(pool.map(slab, places))
    return out


def _fillings(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least closing within slices and the least of all, for slabs (N, I, J, K) padded by MARGIN on every side."""
    shape = (len(padded), *(size - 2 * m for size, m in zip(padded.shape[1:], MARGIN, strict=True)))
    buffers = [np.empty(padded.size, dtype=np.float32) for _ in range(4)]
    least = np.full(shape, np.inf, dtype=np.float32)
    _least_closing(padded, IN_PLANE, buffers, least)
    within = least.copy()
    for directions in (ACROSS, OBLIQUE):
        _least_closing(padded, directions, buffers, least)
    return within, least


def _least_closing(padded: np.ndarray, directions: tuple[Direction, ...], buffers: list[np.ndarray], least: np.ndarray) -> None:
    """Lower `least`, in place, to the grey closings by lines along `directions`, a key of HALF."""
    length = 2 * HALF[directions] + 1
    for direction in directions:
        raised = along(reach(padded, direction, length), direction, length, _into(np.maximum, buffers[:2]))
        closed = along(raised, direction, length, _into(np.minimum, buffers[2:]))
        np.minimum(least, closed, out=least)


def _into(extreme: np.ufunc, buffers: list[np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`extreme` of two arrays, written into two buffers by turns: its own last result is one of the arrays it is given."""
    turn = 0

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal turn
        turn = 1 - turn
        result: np.ndarray = extreme(a, b, out=buffers[turn][: a.size].reshape(a.shape))
        return result

    return run


def reach(padded: Image, direction: Direction, length: int) -> Image:
    """The voxels that a closing by `length` voxels along `direction` uses, of (..., I, J, K) padded by MARGIN on every side.

    padded: anything that can be sliced, as for `along`.
    """
    spare = [m - (length - 1) * abs(d) for m, d in zip(MARGIN, direction, strict=True)]
    inside: Image = padded[(..., *(slice(s or None, -s or None) for s in spare))]
    return inside


def along(image: Image, direction: Direction, length: int, extreme: Callable[[Image, Image], Image]) -> Image:
    """The extreme of every run of `length` voxels along `direction`, whole runs alone: log2(length) passes rather than length.

    image: (..., I, J, K), anything that can be sliced and that `extreme` takes two of: an array, a tensor, a node of a graph.
    """
    span = 1
    while span < length:
        step = min(span, length - span)
        first: list[EllipsisType | slice] = [...]
        second: list[EllipsisType | slice] = [...]
        for d in direction:
            low, high = slice(None, -abs(d) * step or None), slice(abs(d) * step, None)
            first.append(low if d >= 0 else high)
            second.append(high if d >= 0 else low)
        image = extreme(image[tuple(first)], image[tuple(second)])
        span += step
    return image
