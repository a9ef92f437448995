"""The atlas placed in a scan by one affine registration at 4 mm. `registration.register` is more precise, in ten times the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.registration.evidence import LEAST_COMMON, LEAST_OVERLAP, SCALES, WRONG_DEG, WRONG_MM, compared
from cmb_models.registration.head import Head
from cmb_models.registration.itk import affine_transform, image_of, rigid_transform, to_itk, to_matrix
from cmb_models.volume import Volume

BINS = 24  # of each image's intensities in the joint histogram
RIM_MM = 8.0  # of air around the head
# Kind, voxels per voxel of the scan's grid, smoothing in mm, most steps. A last stage on every voxel takes as long as all of these
# and places lesions of simulated scans no better.
STAGES = (("rigid", 2, 4.0, 60), ("affine", 2, 2.0, 80))
FIRST_STEP, LAST_STEP = 1.0, 0.02  # in voxels, by the shift of the image that a change causes
TILT_DEG = 12.0  # of the starting poses, about the axis from ear to ear: heads nod more than they turn
LEAST_MARGIN = 0.05  # of the detail correlation over the best wrong pose


@dataclass(frozen=True)
class Placed:
    """to_atlas: (4, 4), RAS mm of the scan to MNI mm. fault: why it is not to be used, "" if it is."""

    to_atlas: np.ndarray
    fault: str = ""


def place(fixed: Head, moving: Head) -> Placed:
    """Register the head of an atlas, `moving`, to the one of a scan, both of about 4 mm. Needs SimpleITK."""
    if not fixed.mask.any():
        return Placed(np.eye(4), "no head")
    mask_mm = ndimage.distance_transform_edt(~fixed.mask, sampling=fixed.image.spacing_mm)
    centre, other = fixed.points_mm().mean(axis=0), moving.points_mm().mean(axis=0)
    matrix = _best_start(fixed, moving, mask_mm, centre, other)
    for kind, step, sigma_mm, steps in STAGES:
        matrix = _refined(fixed, moving, mask_mm, matrix, centre, (kind, step, sigma_mm, steps))
    return Placed(matrix, _fault(fixed, moving, matrix, centre))


def _best_start(fixed: Head, moving: Head, mask_mm: np.ndarray, centre: np.ndarray, other: np.ndarray) -> np.ndarray:
    starts, values = [], []
    method, images = _method(mask_mm, fixed, 3), _images(fixed, moving, 3, 4.0)
    # A scan that lacks the lower head has a higher centre than the atlas.
    for shift in (np.zeros(3), other - centre, other - centre + (0, 0, 12)):
        for tilt in (-TILT_DEG, 0.0, TILT_DEG):
            rotation = Rotation.from_rotvec((tilt, 0, 0), degrees=True).as_matrix()
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation, centre + shift - rotation @ centre
            starts.append(pose)
            method.SetInitialTransform(rigid_transform(pose, centre), True)
            try:
                values.append(float(method.MetricEvaluate(*images)))
            except RuntimeError:  # the heads do not overlap
                values.append(0.0)
    return starts[int(np.argmin(values))]


def _refined(
    fixed: Head, moving: Head, mask_mm: np.ndarray, matrix: np.ndarray, centre: np.ndarray, stage: tuple[str, int, float, int]
) -> np.ndarray:
    kind, step, sigma_mm, steps = stage
    transform = (rigid_transform if kind == "rigid" else affine_transform)(matrix, centre)
    method = _method(mask_mm, fixed, step)
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_STEP, LAST_STEP, steps, relaxationFactor=0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, True)
    try:
        method.Execute(*_images(fixed, moving, step, sigma_mm))
    except RuntimeError:  # no voxel of one head lies in the other: `_fault` finds the pose as bad as it is
        return matrix
    return to_matrix(transform)


def _method(mask_mm: np.ndarray, fixed: Head, step: int) -> Any:
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    # Sums over several work units differ in the last digits from run to run.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    wide = _thinned(Volume(mask_mm <= RIM_MM, fixed.image.affine), step)
    method.SetMetricFixedMask(to_itk(wide.data.astype(np.uint8), wide.affine))
    method.SetInterpolator(SimpleITK.sitkLinear)
    return method


def _images(fixed: Head, moving: Head, step: int, sigma_mm: float) -> tuple[Any, Any]:
    images = []
    for head in (fixed, moving):
        data = np.minimum(head.image.data, np.float32(np.percentile(head.image.data, 99.5)))
        if sigma_mm:
            data = ndimage.gaussian_filter(data, sigma_mm / np.asarray(head.image.spacing_mm))
        images.append(image_of(_thinned(Volume(data, head.image.affine), step)))
    return images[0], images[1]


def _thinned(volume: Volume, step: int) -> Volume:
    """Every step-th voxel along each axis, from the first."""
    return Volume(volume.data[::step, ::step, ::step], volume.affine @ np.diag([step, step, step, 1.0]))


def _fault(fixed: Head, moving: Head, matrix: np.ndarray, centre: np.ndarray) -> str:
    """The first sign that a pose (4, 4) from scan to atlas is wrong, or ""."""
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if scales.min() < SCALES[0] or scales.max() > SCALES[1]:
        return f"scales of {scales.min():.2f} to {scales.max():.2f}"
    detail, overlap, common = compared(fixed, moving, matrix, with_edges=True)
    if common < LEAST_COMMON or overlap < LEAST_OVERLAP:
        return f"heads that overlap by {overlap:.2f}, with {common:.0%} in common"
    wrong = max(compared(fixed, moving, matrix @ pose, with_edges=True)[0] for pose in _wrong_poses(centre))
    if detail - wrong < LEAST_MARGIN:
        return f"a correlation of {detail:.2f}, with {wrong:.2f} at a wrong pose"
    return ""


def _wrong_poses(centre_mm: np.ndarray) -> list[np.ndarray]:
    """Six rigid (4, 4) that shift along or turn about each axis. One way each: they take half of the time."""
    poses = []
    for axis in np.eye(3):
        shifted, turned = np.eye(4), np.eye(4)
        shifted[:3, 3] = WRONG_MM * axis
        turned[:3, :3] = Rotation.from_rotvec(WRONG_DEG * axis, degrees=True).as_matrix()
        turned[:3, 3] = centre_mm - turned[:3, :3] @ centre_mm
        poses += [shifted, turned]
    return poses
