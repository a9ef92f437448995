"""What a scan shows: a whole head or an extracted brain, all of it or a part."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_models.volume import Volume

MASKED_AIR = 0.2  # share of voxels with the lowest value above which air was set to it; as measured, noise leaves some zeros
COARSE_MM = 3.0
RIM_MM, INNER_MM = (5.0, 10.0), (18.0, 35.0)  # depths below the surface: the skull of a head, and brain
# Lower quartile of the rim over the median of the inner. Simulated heads .18 to .62, their brains .77 to .91 (28 scans).
BRAIN_RIM = 0.7


def is_brain_extracted(ras: Volume) -> bool:
    """Whether the air of a scan was set to one value and what is left has no skull: no dark rim below its surface.

    Approximate: a brain that was extracted with a margin counts as a head.

    Args:
        ras: The scan in RAS+ order.
    """
    outside = ras.data == ras.data.min()
    if outside.mean() < MASKED_AIR:
        return False
    step = [max(1, round(COARSE_MM / s)) for s in ras.spacing_mm]
    coarse = tuple(slice(None, None, s) for s in step)
    inside, data = ndimage.binary_fill_holes(~outside[coarse]), ras.data[coarse]
    rim, inner = [], []
    for k in range(data.shape[2]):  # within slices: a slab of a head has no surface at its ends
        sampling = [n * s for n, s in zip(step[:2], ras.spacing_mm[:2], strict=True)]
        depth = ndimage.distance_transform_edt(np.pad(inside[:, :, k], 1), sampling=sampling)[1:-1, 1:-1]
        rim.append(data[:, :, k][_between(depth, RIM_MM)])
        inner.append(data[:, :, k][_between(depth, INNER_MM)])
    rims, inners = np.concatenate(rim), np.concatenate(inner)
    if not len(rims) or not len(inners) or not (middle := float(np.median(inners))):
        return False
    return bool(np.percentile(rims, 25) > BRAIN_RIM * middle)


def _between(depth_mm: np.ndarray, limits_mm: tuple[float, float]) -> np.ndarray:
    return (depth_mm > limits_mm[0]) & (depth_mm < limits_mm[1])


def height_mm(ras: Volume) -> float:
    """Extent of a scan in RAS+ order from bottom to top, mm: a brain has about 120."""
    return float(ras.spacing_mm[2] * ras.data.shape[2])
