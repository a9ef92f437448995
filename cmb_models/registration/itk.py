"""The boundary to SimpleITK, whose frame is LPS: images and transforms are converted here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cmb_models.errors import InputError
from cmb_models.volume import Volume

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS mm to LPS mm, and back


def require_package() -> None:
    """Raise InputError unless SimpleITK is installed."""
    try:
        import SimpleITK  # noqa: F401
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[compare]'"
        raise InputError("package-missing", "registration", "the package SimpleITK", "none", remedy) from error


def to_itk(data: np.ndarray, affine: np.ndarray) -> Any:
    """A SimpleITK image of voxels (I, J, K), float32 or uint8, with an affine (4, 4) to RAS mm."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = FLIP @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def image_of(volume: Volume) -> Any:
    """A SimpleITK image of a volume."""
    return to_itk(volume.data, volume.affine)


def to_matrix(transform: Any) -> np.ndarray:
    """The (4, 4) matrix in RAS mm of a linear SimpleITK transform; it maps points of the fixed to points of the moving image."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, 3] = origin
    for axis, unit in enumerate(np.eye(3)):
        lps[:3, axis] = np.array(transform.TransformPoint(unit.tolist())) - origin
    ras: np.ndarray = FLIP @ lps @ FLIP
    return ras


def rigid_transform(ras: np.ndarray, centre_mm: np.ndarray) -> Any:
    """SimpleITK's Euler transform of a rigid (4, 4) in RAS mm that turns about a point (3,) in RAS mm."""
    import SimpleITK

    transform = SimpleITK.Euler3DTransform()
    # Its setter refuses what is no rotation, by default already rounding errors.
    return _set(transform, lambda matrix: transform.SetMatrix(matrix, 1e-6), ras, centre_mm)


def affine_transform(ras: np.ndarray, centre_mm: np.ndarray) -> Any:
    """SimpleITK's affine transform of a (4, 4) in RAS mm, parametrised about a point (3,) in RAS mm."""
    import SimpleITK

    transform = SimpleITK.AffineTransform(3)
    return _set(transform, transform.SetMatrix, ras, centre_mm)


def _set(transform: Any, set_matrix: Callable[[list[float]], None], ras: np.ndarray, centre_mm: np.ndarray) -> Any:
    lps = FLIP @ ras @ FLIP
    centre = FLIP[:3, :3] @ centre_mm
    transform.SetCenter(centre.tolist())
    set_matrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
    return transform
