"""Two scans of one hand-made head, for tests of comparisons."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.registration.evidence import mapped
from cmb_models.volume import Volume
from tests.support.bundles import head

SHAPE = (80, 80, 32)
BEFORE_MM = ((-10.0, -5.0, 0.0), (12.0, 8.0, -6.0))
NEW_MM = ((0.0, 15.0, 8.0), (-14.0, 12.0, -8.0))


def anatomy(volume: Volume, seed: int) -> Volume:
    """The scan with a texture by which heads differ; the same seed gives the same head."""
    texture = ndimage.gaussian_filter(np.random.default_rng((77, seed)).normal(size=SHAPE), (4, 4, 2))
    data = volume.data * (1 + 0.03 * texture / texture.std() * (volume.data > 200))
    return Volume(data, volume.affine)


def visit(blobs_mm, seed: int, head_seed: int = 0) -> Volume:
    """One scan of a head with dark spots. seed: of its noise."""
    return anatomy(head(blobs_mm, seed=seed), head_seed)


def moved(volume: Volume, degrees: float = 8.0, mm: float = 12.0) -> tuple[Volume, np.ndarray]:
    """The scan as of a head that was turned and shifted in the scanner with its slab, and that movement (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.array([0.6, -0.64, 0.48]) * degrees, degrees=True).as_matrix()
    pose[:3, 3] = np.array([0.48, 0.6, -0.64]) * mm
    return Volume(volume.data, pose @ volume.affine), pose


def two_visits() -> tuple[Volume, Volume, np.ndarray]:
    """A baseline with BEFORE_MM, a follow-up with NEW_MM too that was moved, and the places of all in the follow-up's frame."""
    followup, pose = moved(visit((*BEFORE_MM, *NEW_MM), seed=1))
    return visit(BEFORE_MM, seed=0), followup, mapped(pose, np.array([*BEFORE_MM, *NEW_MM]))
