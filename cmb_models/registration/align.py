"""Linear registration of two head scans by mutual information, from coarse to fine."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.errors import InputError
from cmb_models.registration.evidence import Registration, failed, judged
from cmb_models.registration.head import Head, find_head
from cmb_models.registration.itk import affine_transform, image_of, require_package, rigid_transform, to_itk, to_matrix
from cmb_models.volume import UNPLACED, Volume, world_from_index

Kind = Literal["rigid", "affine"]
BINS = 32  # of each image's intensities in the joint histogram
RIM_MM = 6.0  # of air around the head, whose border guides the registration
# Voxels per voxel of the working grid, and the smoothing in mm, of each level. The last one is repeated in the other direction.
LEVELS = ((4, 4.0), (2, 2.0), (1, 0.0))
FIRST_STEP, LAST_STEP, STEPS = 1.0, 0.002, 150  # in voxels of the level, by the shift of the image that a change causes
TILTS_DEG = (-15.0, 0.0, 15.0)  # of the starting poses, about each axis


def register(fixed: Volume, moving: Volume, kind: Kind = "rigid", case: str = "registration") -> Registration:
    """Register two scans of one head, or a head and an atlas.

    Mattes' mutual information (Mattes et al. 2003) over the head and a rim of air, in three levels, from the best of several
    starting poses. All voxels of a level are used, in one thread: the same scans give the same result.

    Args:
        fixed: Scan (I, J, K) in any orientation, in scanner space.
        moving: Another one; spacing, orientation and coverage may differ.
        kind: "rigid" for the same head, six parameters; "affine" for another head, twelve, from the rigid result.
        case: Name of the pair in error messages.

    Returns:
        The transform with its evidence. It has succeeded.

    Raises:
        InputError: scan-space for a scan that is not in scanner space; scan-not-finite; registration-failed if the transform found
            is not plausible, or explains the images no better than wrong ones do; package-missing without SimpleITK.
    """
    require_package()
    for name, volume in (("fixed", fixed), ("moving", moving)):
        if not volume.in_scanner:
            raise InputError("scan-space", f"{case} ({name})", "a scan in scanner space", UNPLACED, "convert it from DICOM again")
        if not np.isfinite(volume.data).all():
            remedy = "set the background to 0 (`cmb import --nan-as-air`) and check the export"
            raise InputError("scan-not-finite", f"{case} ({name})", "finite voxels", "NaN or infinite ones", remedy)
    one, other = find_head(fixed), find_head(moving)
    for name, head in (("fixed", one), ("moving", other)):
        if not head.mask.any():
            raise failed(case, "a head in both scans", f"none in the {name} one")
    matrix = _registered(one, other, kind)
    # Backwards from the result: where the two directions disagree, neither is right.
    back = _refined(other, one, np.linalg.inv(matrix), kind, LEVELS[-1:])
    return judged(one, other, matrix, back, kind, case)


def _registered(fixed: Head, moving: Head, kind: Kind) -> np.ndarray:
    """The (4, 4) in RAS mm from fixed to moving places."""
    level = LEVELS[0]
    method = _method(fixed, moving, level)
    images = _images(fixed, moving, level)
    starts = _starts(fixed, moving)
    centre = _centre(fixed)
    values = []
    for start in starts:
        method.SetInitialTransform(rigid_transform(start, centre), True)
        values.append(_evaluated(method, images))
    best = [starts[n] for n in np.argsort(values)[:2]]
    # Two starting poses may lie in different basins; at the coarsest level both cost little.
    coarse = [_refined(fixed, moving, start, "rigid", (level,)) for start in best]
    scores = []
    for pose in coarse:
        method.SetInitialTransform(rigid_transform(pose, centre), True)
        scores.append(_evaluated(method, images))
    matrix = _refined(fixed, moving, coarse[int(np.argmin(scores))], "rigid", LEVELS[1:])
    return matrix if kind == "rigid" else _refined(fixed, moving, matrix, "affine", LEVELS[1:])


def _starts(fixed: Head, moving: Head) -> list[np.ndarray]:
    """Rigid starting poses (4, 4): where the scanner says, and centre on centre, each with tilts about one axis."""
    centre, other = _centre(fixed), _centre(moving)
    poses = []
    for shift in (np.zeros(3), other - centre):
        turns = [np.zeros(3)] + [np.eye(3)[a] * t for a in range(3) for t in TILTS_DEG if t]
        for turn in turns:
            rotation = Rotation.from_rotvec(turn, degrees=True).as_matrix()
            pose = np.eye(4)
            pose[:3, :3] = rotation
            pose[:3, 3] = centre + shift - rotation @ centre
            poses.append(pose)
    return poses


def _centre(head: Head) -> np.ndarray:
    return np.asarray(head.points_mm().mean(axis=0))


def _refined(fixed: Head, moving: Head, matrix: np.ndarray, kind: Kind, levels: tuple[tuple[int, float], ...]) -> np.ndarray:
    make = rigid_transform if kind == "rigid" else affine_transform
    for level in levels:
        method = _method(fixed, moving, level)
        transform = make(matrix, _centre(fixed))
        method.SetInitialTransform(transform, True)
        try:
            method.Execute(*_images(fixed, moving, level))
        except RuntimeError:  # no voxel of one head lies in the other: `judged` finds the pose as bad as it is
            return matrix
        matrix = to_matrix(transform)
    return matrix


def _method(fixed: Head, moving: Head, level: tuple[int, float]) -> Any:
    """SimpleITK's registration method for a level, without a transform."""
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    # Sums over several work units differ in the last digits from run to run.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetMetricFixedMask(_mask(fixed, level[0]))
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_STEP, LAST_STEP, STEPS, relaxationFactor=0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _evaluated(method: Any, images: tuple[Any, Any]) -> float:
    try:
        return float(method.MetricEvaluate(*images))
    except RuntimeError:  # the heads do not overlap in this pose
        return 0.0


def _images(fixed: Head, moving: Head, level: tuple[int, float]) -> tuple[Any, Any]:
    return _level_image(fixed.image, level), _level_image(moving.image, level)


def _level_image(image: Volume, level: tuple[int, float]) -> Any:
    """Smoothed and thinned; intensities beyond the brightest tissue, such as fat, are clipped."""
    step, sigma_mm = level
    data = np.minimum(image.data, np.float32(np.percentile(image.data, 99.5)))
    if sigma_mm:
        data = ndimage.gaussian_filter(data, sigma_mm / np.asarray(image.spacing_mm))
    return image_of(_thinned(Volume(data, image.affine), step))


def _mask(head: Head, step: int) -> Any:
    outside_mm = ndimage.distance_transform_edt(~head.mask, sampling=head.image.spacing_mm)
    wide = _thinned(Volume(outside_mm <= RIM_MM, head.image.affine), step)
    return to_itk(wide.data.astype(np.uint8), wide.affine)


def _thinned(volume: Volume, step: int) -> Volume:
    """Every step-th voxel along each axis, but enough of them along a short one."""
    steps = [max(1, min(step, n // 8)) for n in volume.data.shape]
    first = [(n - 1) % s // 2 for n, s in zip(volume.data.shape, steps, strict=True)]
    data = volume.data[tuple(slice(f, None, s) for f, s in zip(first, steps, strict=True))]
    affine = volume.affine @ np.diag([*map(float, steps), 1.0])
    affine[:3, 3] = world_from_index(np.array([first]), volume.affine)[0]
    return Volume(data, affine)
