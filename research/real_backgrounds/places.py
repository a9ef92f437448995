"""Where microbleeds are inserted: inside the brain, away from dark structures, the brain's edge and the scan's faces."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_models.phantom.lesions.cmbs import draw_chi_ppm, draw_diameter_mm
from cmb_models.phantom.lesions.surroundings import BRIGHT
from cmb_models.volume import triple
from research.real_backgrounds.insertion import Insertion
from research.real_backgrounds.scans import GENERATION, Background

SMALLEST_MM = 1.4  # the phantom's: 5th percentile of marked ones
AROUND_MM = 4.0  # standard deviation of the average that darkness is compared with
SMOOTH_MM = 0.4  # of the scan before, against noise
CLEAR_MM = 1.5  # of tissue around an inserted microbleed
APART_MM = 25.0  # between two in one copy of a scan: their phase has faded there
TRIES = 200


def clearance_mm(background: Background) -> np.ndarray:
    """Distance (I, J, K) in mm of each voxel to what is dark, outside the brain or outside the scan; 0 there."""
    spacing = np.asarray(background.spacing_mm)
    image = ndimage.gaussian_filter(background.volumes(background.image)[0].data, SMOOTH_MM / spacing, mode="nearest")
    sigma = AROUND_MM / spacing
    weight = ndimage.gaussian_filter(background.brain.astype(np.float32), sigma, mode="constant")
    around = ndimage.gaussian_filter(np.where(background.brain, image, 0), sigma, mode="constant") / np.maximum(weight, 1e-3)
    good = np.pad(background.brain & (image >= BRIGHT * around), 1)
    return ndimage.distance_transform_edt(good, sampling=spacing)[1:-1, 1:-1, 1:-1]


def draw_copies(background: Background, count: int, rng: np.random.Generator) -> list[list[Insertion]]:
    """About `count` microbleeds in copies of the scan, at most background.at_once in each; [] where there is no room.

    Sizes are drawn as the phantom draws them, from SMALLEST_MM on; one that finds no place in TRIES is left out.
    """
    clearance = clearance_mm(background)
    voxels = np.argwhere(clearance >= SMALLEST_MM / 2 + CLEAR_MM)
    copies: list[list[Insertion]] = []
    if not len(voxels):
        return copies
    room = clearance[tuple(voxels.T)]
    while sum(map(len, copies)) < count:
        copy: list[Insertion] = []
        for _ in range(min(background.at_once, count - sum(map(len, copies)))):
            diameter = draw_diameter_mm(rng, SMALLEST_MM)
            chi, body = draw_chi_ppm(rng, GENERATION), int(rng.integers(2**31))
            places = voxels[room >= diameter / 2 + CLEAR_MM]
            for place in places[rng.integers(len(places), size=TRIES)] if len(places) else ():
                at = place + rng.uniform(-0.5, 0.5, 3)
                if all(np.linalg.norm((at - other.at_vox) * background.spacing_mm) >= APART_MM for other in copy):
                    copy.append(Insertion(triple(float(v) for v in at), diameter, chi, body))
                    break
        if not copy:
            break
        copies.append(copy)
    return copies
