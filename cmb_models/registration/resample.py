"""One scan drawn on the grid of another."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_models.volume import Volume


def resample(moving: Volume, fixed: Volume, fixed_to_moving: np.ndarray, outside: float = 0.0) -> Volume:
    """Interpolate a scan on another one's grid, linearly.

    Args:
        moving: Scan (I, J, K) in any orientation.
        fixed: The scan whose grid is used, (A, B, C) in any orientation.
        fixed_to_moving: (4, 4), RAS mm to RAS mm.
        outside: Value of voxels that lie outside of the moving scan.

    Returns:
        The moving scan (A, B, C) with the affine of `fixed`.
    """
    matrix = np.linalg.inv(moving.affine) @ fixed_to_moving @ fixed.affine
    data = ndimage.affine_transform(
        moving.data, matrix[:3, :3], matrix[:3, 3], fixed.data.shape, order=1, mode="constant", cval=outside
    )
    return Volume(data, fixed.affine)
