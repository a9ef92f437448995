"""The region of findings in a scan."""

from __future__ import annotations

import logging

import numpy as np

from cmb_models.regions.atlas import load_atlas
from cmb_models.regions.place import Placed, place
from cmb_models.registration.evidence import mapped
from cmb_models.registration.head import find_head
from cmb_models.registration.itk import require_package
from cmb_models.volume import Volume, world_from_index

log = logging.getLogger(__name__)

WORKING_MM = 4.0  # of the scan when it is registered: the atlas has no finer detail


def regions_of(volume: Volume, positions_mm: np.ndarray, case: str = "scan") -> list[str] | None:
    """The coarse region of places in a scan, as the Microbleed Anatomical Rating Scale divides the brain.

    An atlas is registered to the scan by an affine transform. It is coarse: near a border between two regions the answer may be
    either one. It is no substitute for a reader.

    Args:
        volume: SWI scan (I, J, K) in any orientation, of a head or of a brain without skull.
        positions_mm: (N, 3), RAS mm. N may be 0: then nothing is registered.
        case: Name of the scan in the log.

    Returns:
        N names of REGIONS; None, with a sentence in the log, where the registration did not succeed.

    Raises:
        InputError: package-missing without SimpleITK.
    """
    places = np.asarray(positions_mm, dtype=np.float64).reshape(-1, 3)
    if not len(places):
        return []
    placed = _placed(volume)
    if placed.fault:
        log.warning("%s: no regions, since the atlas could not be registered: %s", case, placed.fault)
        return None
    return load_atlas().regions_at(mapped(placed.to_atlas, places))


def _placed(volume: Volume) -> Placed:
    """The atlas in a scan with a whole head, else in one of a brain without skull."""
    require_package()
    if not volume.in_scanner or not np.isfinite(volume.data).all():
        return Placed(np.eye(4), "it is not in scanner space, or not finite")
    scan = find_head(_reduced(volume))
    placed = place(scan, load_atlas().head)
    if placed.fault:
        brain = place(scan, load_atlas().brain)
        placed = placed if brain.fault else brain
    return placed


def _reduced(volume: Volume) -> Volume:
    """Means over whole blocks of voxels, so many that the spacing comes near WORKING_MM."""
    factors = [min(max(1, round(WORKING_MM / s)), n) for s, n in zip(volume.spacing_mm, volume.data.shape, strict=True)]
    shape = [n // f for n, f in zip(volume.data.shape, factors, strict=True)]
    cut = volume.data[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
    data = cut.reshape([size for pair in zip(shape, factors, strict=True) for size in pair]).mean(axis=(1, 3, 5))
    affine = volume.affine @ np.diag([*map(float, factors), 1.0])
    affine[:3, 3] = world_from_index(np.array([[(f - 1) / 2 for f in factors]]), volume.affine)[0]
    return Volume(data, affine, volume.in_scanner)
