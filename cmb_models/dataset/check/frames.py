"""In which frame were the marks of a dataset written? A microbleed is dark, so the right frame is the one whose marks are dark.

Coordinates in another frame often fall inside the head too: LPS instead of RAS turns a head near the isocentre by half a turn,
which no single mark reveals. Over a dataset it shows: all marks are dark in their own frame, and few in another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_models.errors import InputError
from cmb_models.volume import Volume, index_from_world

HALF_WINDOW_MM = 8.0  # holds the largest microbleed (10 mm) with tissue around it
TISSUE = 0.15  # share of the image's 99th percentile above which it is no air
# Least mean gain in darkness, least t of the paired differences and least number of marks with which a dataset is refused. A frame
# elsewhere in the head gains about half; a shift by one voxel little, of small lesions alone.
ELSEWHERE, SHIFTED = (0.25, 2.5, 5), (0.08, 1.5, 10)
MIN_MARKS = ELSEWHERE[2]
DARK = 0.9  # darker than 9 in 10 voxels around it
WRITTEN = "RAS"  # the frame that annotations are to be in
ZERO_BASED = "voxel indices from 0"
ONE_BASED = "voxel indices from 1"
BY_ONE = f"millimetres of {ONE_BASED}"
REMEDIES = {
    "LPS": "change the signs of x_mm and y_mm",
    "mirrored left to right": "change the sign of x_mm, or correct the scans' affines",
    "mirrored front to back": "change the sign of y_mm, or correct the scans' affines",
    "slices in reverse order": "count the slices from the other end, or correct the scans' affines",
    ZERO_BASED: "convert them by each scan's affine",
    ONE_BASED: "subtract 1 and convert them by each scan's affine",
    BY_ONE: "subtract 1 from the voxel indices before they are converted",
}


def positions(centres_mm: np.ndarray, volume: Volume) -> dict[str, np.ndarray]:
    """Voxel indices (N, 3) that marks (N, 3) have in each frame they may have been written in.

    volume: as stored. The frames: RAS (right), LPS, mirrored left to right or front to back, slices counted from the other end,
    voxel indices from 0 or 1 instead of millimetres, and millimetres of voxel indices counted from 1.
    """
    ras = index_from_world(centres_mm, volume.affine)
    slices = int(np.argmax(volume.spacing_mm))
    reversed_slices = ras.copy()
    reversed_slices[:, slices] = volume.data.shape[slices] - 1 - ras[:, slices]
    flips = {"LPS": (-1, -1, 1), "mirrored left to right": (-1, 1, 1), "mirrored front to back": (1, -1, 1)}
    return {
        WRITTEN: ras,
        **{name: index_from_world(centres_mm * signs, volume.affine) for name, signs in flips.items()},
        "slices in reverse order": reversed_slices,
        ZERO_BASED: centres_mm,
        ONE_BASED: centres_mm - 1,
        BY_ONE: ras - 1,
    }


def darkness(volume: Volume, index: np.ndarray) -> np.ndarray:
    """Share of the tissue around each place (N, 3), voxel indices, that is brighter than the place itself.

    Air is left out: at the edge of an extracted brain it makes up half of the surroundings, darker than anything in it. 0 outside
    the image and where most of what lies around is air.
    """
    data, half = volume.data, [max(1, round(HALF_WINDOW_MM / s)) for s in volume.spacing_mm]
    sampled = data[::4, ::4, ::2]
    finite = sampled[np.isfinite(sampled)]
    air = TISSUE * float(np.percentile(finite, 99)) if finite.size else np.inf
    inside = ((index >= 0) & (index <= np.array(data.shape) - 1)).all(axis=1)
    found = np.zeros(len(index))
    for n in np.flatnonzero(inside):
        middle = np.rint(index[n]).astype(int)
        window = data[tuple(slice(max(0, m - h), m + h + 1) for m, h in zip(middle, half, strict=True))]
        low = np.maximum(0, middle - half)
        if np.median(window) > air:
            value = float(ndimage.map_coordinates(window, (index[n] - low)[:, None], order=1, mode="nearest")[0])
            found[n] = (window[window > air] > value).mean()
    return found


def darkness_by_frame(centres_mm: np.ndarray, volume: Volume) -> dict[str, np.ndarray]:
    """`darkness` of a scan's marks (N, 3), as written, in each of the frames of `positions`. N may be 0."""
    return {name: darkness(volume, index) for name, index in positions(centres_mm, volume).items()}


@dataclass(frozen=True)
class OtherFrame:
    """A frame in which marks are clearly darker than in the one they were read in. found: both counts, in words."""

    name: str
    found: str


def other_frame(scans: Sequence[Mapping[str, np.ndarray]], written: str = WRITTEN) -> OtherFrame | None:
    """The frame that marks were rather written in than in `written`; None if there is none, or fewer than MIN_MARKS marks.

    scans: `darkness_by_frame` of each scan.
    """
    if not scans or sum(len(scan[written]) for scan in scans) < MIN_MARKS:
        return None
    found = {name: np.concatenate([scan[name] for scan in scans]) for name in scans[0]}
    best = max(found, key=lambda name: float(found[name].mean()))
    gain = found[best] - found[written]
    least, t, marks = SHIFTED if best == BY_ONE or {best, written} == {ZERO_BASED, ONE_BASED} else ELSEWHERE
    if len(gain) < marks or gain.mean() <= max(least, t * gain.std(ddof=1) / math.sqrt(len(gain))):
        return None
    count, counts = len(gain), {name: int((values > DARK).sum()) for name, values in found.items()}
    return OtherFrame(
        best, f"marks of which {counts[written]} of {count} are dark there, and {counts[best]} of {count} read as {best}"
    )


def require_frame(dataset: Path, scans: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Raise InputError naming a dataset's annotations if its marks are clearly darker in another frame than as written.

    scans: `darkness_by_frame` of each scan. Fewer than MIN_MARKS marks are never refused.
    """
    if other := other_frame(scans):
        expected = "x_mm, y_mm, z_mm in scanner RAS millimetres"
        raise InputError("annotation-frame", dataset, expected, other.found, REMEDIES[other.name])
