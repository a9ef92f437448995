"""Microbleeds planted into a site's own scans: few scans hold few lesions, and a network needs to see many.

A planted lesion darkens the tissue by a smooth ellipsoid, in the sizes that microbleeds have by definition. It is drawn in the
picture, not by physics, and knows nothing of how the phantom makes its lesions.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

DIAMETER_MM = (2.0, 7.0)  # as seen; log-uniform; 2-10 mm by definition, 95 % below 4.8 (957 real ones, README)
DEPTH = (0.55, 1.0)  # share of the tissue's signal lost at the centre: what a reader would mark, up to a void
EDGE_MM = (0.25, 0.5)  # over which the darkness fades: partial volume at 1 mm voxels
ASYMMETRY = 0.15  # log-standard deviation of the axes: sphericity of about .85
INSIDE_MM = 12.0  # least depth below the head's surface: scalp and skull hold no microbleeds
TISSUE = 0.6  # of the head's median signal: darker places are vessels or bone
COARSE = 4  # the head's inside is judged on every fourth voxel, since only its rough shape matters


def places_inside(image: np.ndarray, spacing_mm: tuple[float, float, float], air: float) -> np.ndarray:
    """Voxels (N, 3) int64 of a coarse grid that lie in tissue well inside the head; (0, 3) if there are none.

    image: (I, J, K) normalised, the head's median at 0 and air at `air` (below 0).
    """
    coarse = image[::COARSE, ::COARSE, ::COARSE]
    head = ndimage.binary_fill_holes(ndimage.binary_closing(coarse > air / 2, iterations=3))
    # A margin of air on all sides, or a scan cut through the head would count its cut as inside.
    depth_mm = ndimage.distance_transform_edt(np.pad(head, 1), sampling=[s * COARSE for s in spacing_mm])[1:-1, 1:-1, 1:-1]
    return np.argwhere((depth_mm > INSIDE_MM) & (coarse > air * (1 - TISSUE))) * COARSE


def plant(
    image: np.ndarray, centre_vox: np.ndarray, spacing_mm: tuple[float, float, float], air: float, rng: np.random.Generator
) -> np.ndarray:
    """A copy of a normalised patch (I, J, K) with one lesion at centre_vox (3,), fractions allowed."""
    radius_mm = 0.5 * np.exp(rng.uniform(*np.log(DIAMETER_MM)))
    depth, edge_mm = rng.uniform(*DEPTH), rng.uniform(*EDGE_MM)
    stretch = np.exp(rng.normal(0, ASYMMETRY, 3))
    away = [
        ((np.arange(n) - c) * s / f) ** 2
        for n, c, s, f in zip(image.shape, centre_vox, spacing_mm, stretch / np.cbrt(stretch.prod()), strict=True)
    ]
    distance_mm = np.sqrt(away[0][:, None, None] + away[1][None, :, None] + away[2][None, None, :])
    dark = depth / (1 + np.exp(np.clip((distance_mm - radius_mm) / edge_mm, -30, 30)))
    return (air + (image - air) * (1 - dark)).astype(np.float32)
