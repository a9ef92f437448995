"""How large a dark spot looks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

WINDOW_MM = 8.0  # holds the largest CMB by definition (10 mm across) with tissue around it
LARGEST_MM = 10.0  # CMBs are 2-10 mm by definition (FACTS 3); more is a vessel that the spot runs into


def diameter_mm(image: np.ndarray, index: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Equivalent-sphere diameter in mm of the dark spot at `index`, at half its depth below the surrounding median.

    image: (I, J, K). index: (3,). The spot is the connected region through the darkest voxel within one voxel of `index`;
    at least one voxel's volume, at most LARGEST_MM. A place no darker than its surroundings has no spot: one voxel's volume.
    """
    reach = [max(1, round(WINDOW_MM / s)) for s in spacing_mm]
    low = [max(0, c - r) for c, r in zip(index, reach, strict=True)]
    window = image[tuple(slice(a, c + r + 1) for a, c, r in zip(low, index, reach, strict=True))]
    centre = np.asarray(index) - low
    near = tuple(slice(max(0, c - 1), c + 2) for c in centre)
    darkest = np.asarray(np.unravel_index(np.argmin(window[near]), window[near].shape)) + [s.start for s in near]
    level = (window[tuple(darkest)] + np.median(window)) / 2
    labels, _ = ndimage.label(window <= level)
    label = labels[tuple(darkest)]  # 0, the background, where the surroundings are darker still
    spot_vox = np.count_nonzero(labels == label) if label else 1
    volume_mm3 = spot_vox * float(np.prod(spacing_mm))
    return float(min(LARGEST_MM, 2 * (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)))
