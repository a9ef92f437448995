"""What is a candidate: local maxima of the candidate network's heatmap, thinned by distance, best first; and their diameter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.config.params import Candidates

FIRST_LOOK = 20_000  # voxels; some hundred blobs of a few dozen voxels each
AT_ONCE = 512  # points whose neighbours are looked up together; all of a plateau's would not fit in memory
# Holds the largest CMB by definition (10 mm across) with tissue around it.
WINDOW_MM = 8.0
# CMBs are 2-10 mm across by definition (Greenberg et al. 2009); more is a vessel that the dark spot runs into.
LARGEST_MM = 10.0


def find_candidates(
    heatmap: Array, spacing_mm: tuple[float, float, float], settings: Candidates, arrays: Arrays = NUMPY
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of a heatmap.

    heatmap: (I, J, K) float32 in [0, 1], of `arrays`. Returns voxel indices (N, 3) int64 and their scores (N,) float32, best first,
    N at most `max_per_scan`; (0, 3) and (0,) when nothing reaches the floor. No two are nearer than `min_distance_mm`.
    """
    # A network that is unsure everywhere: the highest voxels alone often fill the list, and then no lower one can enter.
    level = arrays.level(heatmap, settings.floor, FIRST_LOOK)
    if level > settings.floor:
        index, score = _chosen(arrays.peaks(heatmap, level), spacing_mm, settings)
        if len(index) == settings.max_per_scan:
            return index, score
    return _chosen(arrays.peaks(heatmap, settings.floor), spacing_mm, settings)


def _chosen(
    peaks: tuple[np.ndarray, np.ndarray], spacing_mm: tuple[float, float, float], settings: Candidates
) -> tuple[np.ndarray, np.ndarray]:
    """`find_candidates` of all peaks above some level: index (N, 3) and score (N,)."""
    index, score = peaks
    # Equal scores keep the voxel order, so the same heatmap always gives the same list.
    order = np.argsort(-score, kind="stable")
    index, score = index[order], score[order]
    keep = _thin(index * np.asarray(spacing_mm), settings.min_distance_mm, settings.max_per_scan)
    return index[keep].astype(np.int64), score[keep].astype(np.float32)


def _thin(points_mm: np.ndarray, min_distance_mm: float, most: int) -> np.ndarray:
    """Greedy choice: walk points (N, 3) best first, drop those nearer than `min_distance_mm` to a chosen one."""
    if not len(points_mm):
        return np.zeros(0, dtype=np.int64)
    from scipy.spatial import cKDTree  # here: it is half of what the served steps load, and only one of them gets this far

    tree = cKDTree(points_mm)
    free = np.ones(len(points_mm), dtype=bool)
    chosen: list[int] = []
    for start in range(0, len(points_mm), AT_ONCE):
        asked = start + np.flatnonzero(free[start : start + AT_ONCE])
        for n, near in zip(asked, tree.query_ball_point(points_mm[asked], min_distance_mm), strict=True):
            if free[n]:
                chosen.append(int(n))
                if len(chosen) == most:
                    return np.asarray(chosen, dtype=np.int64)
                free[near] = False
    return np.asarray(chosen, dtype=np.int64)


@dataclass(frozen=True)
class DarkSpot:
    """A spot in a window of an image. low: (3,) the window's first voxel. mask: (A, B, C) bool. darkest: (3,), in the window."""

    low: np.ndarray
    mask: np.ndarray
    darkest: np.ndarray


def dark_spot(image: Array, index: np.ndarray, spacing_mm: tuple[float, float, float], arrays: Arrays = NUMPY) -> DarkSpot:
    """The connected region, at half its depth below the median of WINDOW_MM around, through the darkest voxel next to an index.

    image: (I, J, K), of `arrays`. index: (3,). The mask is empty where the surroundings are
    darker than every voxel next to `index`.
    """
    from scipy import ndimage  # here: clients import this module, and have no SciPy

    reach = [max(1, round(WINDOW_MM / s)) for s in spacing_mm]
    low = [max(0, c - r) for c, r in zip(index, reach, strict=True)]
    window = arrays.host(image[tuple(slice(a, c + r + 1) for a, c, r in zip(low, index, reach, strict=True))])
    centre = np.asarray(index) - low
    near = tuple(slice(max(0, c - 1), c + 2) for c in centre)
    darkest = np.asarray(np.unravel_index(np.argmin(window[near]), window[near].shape)) + [s.start for s in near]
    level = (window[tuple(darkest)] + np.median(window)) / 2
    labels, _ = ndimage.label(window <= level)
    label = labels[tuple(darkest)]  # 0, the background, where the surroundings are darker still
    return DarkSpot(np.asarray(low), labels == label if label else np.zeros(labels.shape, bool), darkest)


def diameter_mm(image: Array, index: np.ndarray, spacing_mm: tuple[float, float, float], arrays: Arrays = NUMPY) -> float:
    """Equivalent-sphere diameter in mm of the dark spot (`dark_spot`) at `index`; arguments as there.

    At least one voxel's volume, which is also that of a place without a spot, at most LARGEST_MM.
    """
    spot_vox = int(np.count_nonzero(dark_spot(image, index, spacing_mm, arrays).mask)) or 1
    volume_mm3 = spot_vox * float(np.prod(spacing_mm))
    return float(min(LARGEST_MM, 2 * (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)))
