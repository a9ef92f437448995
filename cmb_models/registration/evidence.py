"""Whether a registration succeeded: measured at its transform and at deliberately wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.errors import InputError
from cmb_models.registration.head import Head
from cmb_models.registration.resample import resample
from cmb_models.volume import Volume

# Detail is what lies between these widths: finer is noise, coarser is common to all heads and to coil shading.
DETAIL_MM = (1.5, 6.0)
RIND_MM = 8.0  # left out below the skin, whose contour is alike in every head
EDGE_MM = 4.0  # within which a voxel of the mask may hold air
WRONG_MM, WRONG_DEG = 15.0, 15.0  # of the wrong poses, along and about each axis
# Limits, with what was measured on simulated heads: the same head, another head, 15 mm or degrees off.
LEAST_MARGIN = 0.1  # of the detail correlation over the best wrong pose: .3 and up, .07 and up (affine .2), below 0
LEAST_OVERLAP = 0.85  # Dice coefficient of the heads where both scans see: .99, .94 and up, .88 to .95
LEAST_COMMON = 0.25  # of the smaller head: less of a head does not determine six parameters well
MOST_ROTATION_DEG = 45.0  # a head in a coil turns less, and no starting pose is farther off
MOST_SHIFT_MM = 100.0  # between the centres of the two heads, of which one may be seen in part
SCALES = (0.7, 1.4)  # of an affine transform along any axis: heads of adults differ by less
MOST_INCONSISTENCY_MM = 2.0  # .05 to .25, .8 to 1.4 for another head
REMEDY = "check that both are whole SWI scans of one patient in scanner space, and compare them by eye"


@dataclass(frozen=True)
class Registration:
    """A registration that succeeded.

    Attributes:
        kind: "rigid" or "affine".
        moving_to_fixed: (4, 4), RAS mm of the moving scan to RAS mm of the fixed one.
        detail: Correlation, in [-1, 1], of the two images' detail within the common part of the head. Near 1 for two scans of one
            head by one protocol; two heads keep well below.
        wrong_detail: The largest one in twelve wrong poses.
        overlap: Dice coefficient of the two heads within the common field of view, in [0, 1].
        common: Part of the smaller head that both scans see, in [0, 1].
        rotation_deg: Angle by which the moving head was turned.
        shift_mm: Distance that the centre of the fixed head moved.
        inconsistency_mm: Root mean square distance in the head between the transform and the inverse of the one that the
            registration in the other direction found: a lower bound of the error.
    """

    kind: str
    moving_to_fixed: np.ndarray
    detail: float
    wrong_detail: float
    overlap: float
    common: float
    rotation_deg: float
    shift_mm: float
    inconsistency_mm: float

    @property
    def fixed_to_moving(self) -> np.ndarray:
        """The inverse of `moving_to_fixed`, (4, 4)."""
        return np.asarray(np.linalg.inv(self.moving_to_fixed))

    def to_fixed(self, moving_mm: np.ndarray) -> np.ndarray:
        """Places (N, 3) in RAS mm of the moving scan, in RAS mm of the fixed one; N may be 0."""
        return mapped(self.moving_to_fixed, moving_mm)

    def to_moving(self, fixed_mm: np.ndarray) -> np.ndarray:
        """The inverse of `to_fixed`."""
        return mapped(self.fixed_to_moving, fixed_mm)


def mapped(matrix: np.ndarray, places_mm: np.ndarray) -> np.ndarray:
    """Places (N, 3) in mm by a (4, 4); N may be 0."""
    places_mm = np.asarray(places_mm, dtype=np.float64).reshape(-1, 3)
    return np.asarray(places_mm @ matrix[:3, :3].T + matrix[:3, 3])


def failed(case: str, expected: str, got: str) -> InputError:
    """The error of a registration that did not succeed."""
    return InputError("registration-failed", case, expected, got, REMEDY)


def judged(fixed: Head, moving: Head, matrix: np.ndarray, back: np.ndarray, kind: str, case: str) -> Registration:
    """The registration with its evidence.

    Args:
        fixed: The head that `matrix` maps from.
        moving: The head that it maps to.
        matrix: (4, 4), RAS mm of fixed to moving.
        back: (4, 4), found from moving to fixed.
        kind: "rigid" or "affine".
        case: Name of the pair in errors.

    Raises:
        InputError: registration-failed, with the first limit that does not hold.
    """
    points = fixed.points_mm()
    centre = points.mean(axis=0)
    detail, overlap, common = compared(fixed, moving, matrix)
    wrong = max(compared(fixed, moving, matrix @ pose)[0] for pose in _wrong_poses(centre))
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    found = Registration(
        kind=kind,
        moving_to_fixed=np.linalg.inv(matrix),
        detail=detail,
        wrong_detail=wrong,
        overlap=overlap,
        common=common,
        rotation_deg=float(np.degrees(Rotation.from_matrix(left @ right).magnitude())),
        shift_mm=float(np.linalg.norm(mapped(matrix, centre) - centre)),
        inconsistency_mm=float(np.sqrt(np.square(mapped(back @ matrix, points) - points).sum(axis=1).mean())),
    )
    apart_mm = float(np.linalg.norm(mapped(matrix, centre) - moving.points_mm().mean(axis=0)))
    limits = (
        (common >= LEAST_COMMON, f"at least {LEAST_COMMON:.0%} of the smaller head in both scans", f"{common:.0%}"),
        (found.rotation_deg <= MOST_ROTATION_DEG, f"a turn of at most {MOST_ROTATION_DEG:g} degrees", f"{found.rotation_deg:.0f}"),
        (apart_mm <= MOST_SHIFT_MM, f"heads at most {MOST_SHIFT_MM:g} mm apart", f"{apart_mm:.0f} mm"),
        (SCALES[0] <= scales.min() and scales.max() <= SCALES[1], f"scales in {SCALES}", f"{scales.min():.2f}-{scales.max():.2f}"),
        (overlap >= LEAST_OVERLAP, f"an overlap of the heads of at least {LEAST_OVERLAP:g}", f"{overlap:.2f}"),
        (
            detail - wrong >= LEAST_MARGIN,
            f"a correlation at least {LEAST_MARGIN:g} above that of wrong poses",
            f"{detail:.2f}, with {wrong:.2f} at a wrong pose",
        ),
        (
            found.inconsistency_mm <= MOST_INCONSISTENCY_MM,
            f"both directions to agree within {MOST_INCONSISTENCY_MM:g} mm",
            f"{found.inconsistency_mm:.1f} mm",
        ),
    )
    for holds, expected, got in limits:
        if not holds:
            raise failed(case, expected, got)
    return found


def compared(fixed: Head, moving: Head, matrix: np.ndarray, with_edges: bool = False) -> tuple[float, float, float]:
    """Correlation of detail, overlap and common part (`Registration`) at a pose (4, 4) from fixed to moving.

    The correlation is -1 where there is nothing to correlate. with_edges: whether the edge of the head is detail. It says nothing
    of whose head it is, and much of whether an atlas lies in it.
    """
    image = resample(moving.image, fixed.image, matrix, np.nan).data
    seen = np.isfinite(image)
    other = resample(Volume(moving.mask, moving.image.affine), fixed.image, matrix).data > 0.5
    one = fixed.mask & seen
    both = one & other
    smaller_mm3 = min(h.mask.sum() * np.prod(h.image.spacing_mm) for h in (fixed, moving))
    common = float(both.sum() * np.prod(fixed.image.spacing_mm) / smaller_mm3)
    overlap = float(2 * both.sum() / max(1, one.sum() + other.sum()))
    depth_mm = ndimage.distance_transform_edt(both, sampling=fixed.image.spacing_mm)
    inner = depth_mm > RIND_MM
    if inner.sum() < 2:
        return -1.0, overlap, min(common, 1.0)
    inside = both if with_edges else depth_mm > EDGE_MM
    used = np.ones_like(both) if with_edges else inside
    images = (fixed.image.data, np.where(seen, image, 0))
    values = [_detail(v, inside, used, fixed.image.spacing_mm)[inner] for v in images]
    if min(np.ptp(v) for v in values) == 0:
        return -1.0, overlap, min(common, 1.0)
    return float(np.corrcoef(*values)[0, 1]), overlap, min(common, 1.0)


def _detail(image: np.ndarray, inside: np.ndarray, used: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """An image (I, J, K) between the widths of DETAIL_MM, its extremes clipped, so that a few black veins do not decide alone.

    Means are taken over the voxels used alone: without the edge of a head, which is alike in all heads, its step is no detail.
    """
    clipped = np.where(used, np.clip(image, *np.percentile(image[inside], [1, 99])), 0)
    means = []
    for width_mm in DETAIL_MM:
        sigma = width_mm / np.asarray(spacing_mm)
        weight = ndimage.gaussian_filter(used.astype(np.float32), sigma)
        means.append(ndimage.gaussian_filter(clipped, sigma) / np.maximum(weight, 1e-3))
    return np.asarray(means[0] - means[1])


def _wrong_poses(centre_mm: np.ndarray) -> list[np.ndarray]:
    """Twelve rigid (4, 4) that shift by WRONG_MM along, or turn by WRONG_DEG about, each axis through a point (3,), both ways."""
    poses = []
    for axis in np.vstack((np.eye(3), -np.eye(3))):
        shifted = np.eye(4)
        shifted[:3, 3] = WRONG_MM * axis
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_rotvec(WRONG_DEG * axis, degrees=True).as_matrix()
        turned[:3, 3] = centre_mm - turned[:3, :3] @ centre_mm
        poses += [shifted, turned]
    return poses
