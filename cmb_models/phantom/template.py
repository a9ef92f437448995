"""The MNI152 head the simulator warps: tissue maps that nilearn carries, and places drawn on them in MNI millimetres."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from cmb_models.errors import InputError
from cmb_models.phantom.grid import Grid

HALF_MM = 2.0  # distances are smooth, so every second voxel carries them
BASE_Z_MM = -5.0  # below this the head is filled out to the brain's outline above: face, orbits, neck
REGIONS = ("subcortical_white", "cortex_junction", "cerebellum", "basal_ganglia", "thalamus", "brainstem")

# name, centre and half axes in MNI mm (right side; mirrored), tilt about z in degrees: read off the MNI152 T1 by eye.
NUCLEI = (
    ("globus_pallidus", (19, -4, -1), (4.5, 8, 5.5), -25),
    ("putamen", (27, 2, 0), (5, 15, 9), -12),
    ("caudate", (13, 13, 8), (4.5, 9, 8), -10),
    ("caudate", (15, -4, 20), (3.5, 11, 4), -15),
    ("substantia_nigra", (9.5, -18, -12), (3, 7, 3), -40),
    ("red_nucleus", (5, -21, -9), (3, 3, 3.5), 0),
    ("dentate", (14, -56, -34), (5, 8, 4), 30),
)
THALAMUS = ((11, -18, 8), (9, 13, 8), 25)  # centre, half axes, tilt as above
BRAINSTEM = (((0, -24, -13), (14, 10, 9)), ((0, -27, -33), (15, 12, 14)), ((0, -37, -52), (9, 8, 16)))  # midbrain, pons, medulla
AIR_SPACES = (  # centre and half axes, mm: frontal, ethmoid, sphenoid sinuses, mastoid cells
    ((8, 74, -24), (9, 6, 9)),
    ((0, 48, -40), (11, 16, 9)),
    ((0, 14, -42), (10, 12, 8)),
    ((54, -32, -46), (7, 10, 9)),
)


@dataclass(frozen=True)
class Template:
    """Maps on the 1 mm grid `full` unless said otherwise.

    grey, white: uint8 probability x 255. nucleus: uint8, 0 or 1 + index into NUCLEI. iron: uint8, how far inside x 255.
    region: uint8, 0 or 1 + index into REGIONS. On `half`: brain_mm and head_mm, signed distance in mm to the surface of the
    brain and of the brain filled out downwards, negative inside, and air (0..1), all float32.
    """

    full: Grid
    grey: np.ndarray
    white: np.ndarray
    nucleus: np.ndarray
    iron: np.ndarray
    region: np.ndarray
    half: Grid
    brain_mm: np.ndarray
    head_mm: np.ndarray
    air: np.ndarray

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """MNI mm (N, 3) float32 of the voxels of each region."""
        origin = np.asarray(self.full.origin_mm, np.float32)
        return {r: np.argwhere(self.region == n).astype(np.float32) + origin for n, r in enumerate(REGIONS, start=1)}

    @cached_property
    def outward(self) -> np.ndarray:
        """Gradient of brain_mm on `half`, (3, I, J, K)."""
        return np.stack(np.gradient(ndimage.gaussian_filter(self.brain_mm, 1.0), HALF_MM))

    @cached_property
    def to_fluid(self) -> np.ndarray:
        """Gradient of the smoothed fluid fraction on `half`, per mm, (3, I, J, K): leads veins into the sulci."""
        fluid = 1 - (self.grey[::2, ::2, ::2].astype(np.float32) + self.white[::2, ::2, ::2]) / 255
        return np.stack(np.gradient(ndimage.gaussian_filter(np.where(self.brain_mm < 0, fluid, 0.5), 1.0), HALF_MM))


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read and prepare the template; about a second, once per process."""
    t1, grey, white = (np.asarray(nib.load(map_path(kind)).dataobj) for kind in ("t1", "gm", "wm"))
    full = Grid(t1.shape, (1.0, 1.0, 1.0), (-98.0, -134.0, -72.0))
    half = Grid(t1[::2, ::2, ::2].shape, (HALF_MM,) * 3, full.origin_mm)
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1[::2, ::2, ::2] > 0, iterations=2))
    base = int(np.searchsorted(half.axis_mm(2), BASE_Z_MM))
    head = brain.copy()
    head[:, :, : base + 1] = np.logical_or.accumulate(brain[:, :, base::-1], axis=2)[:, :, ::-1]
    brain_mm, head_mm = (_signed_distance(m) for m in (brain, head))
    nucleus, iron = _nuclei(full, white)
    region = _regions(full, grey, white, nucleus, brain_mm)
    air = _air(half) * np.clip((brain_mm - 2) / 2, 0, 1)
    return Template(full, grey, white, nucleus, iron, region, half, brain_mm, head_mm, air.astype(np.float32))


def map_path(kind: str) -> Path:
    """Where nilearn keeps its MNI152 map t1, gm or wm; InputError when it is not installed. nilearn itself is not imported."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError("phantom", "the package nilearn, which carries the MNI152 maps", "none", "pip install nilearn")
    path = Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise InputError(path, "the MNI152 map of nilearn", "no such file", "install a nilearn that carries it (0.13 does)")
    return path


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    outside = ndimage.distance_transform_edt(~mask, sampling=HALF_MM)
    inside = ndimage.distance_transform_edt(mask, sampling=HALF_MM)
    return ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.8)


def _ellipsoid(grid: Grid, centre, half_axes, tilt_degrees: float = 0.0) -> np.ndarray:
    """Normalised radius, 1 on the surface, of an ellipsoid on both sides of the midline (I, J, K) float32."""
    x, y, z = (grid.axis_mm(a).astype(np.float32) for a in range(3))
    u, v = (np.abs(x) - centre[0])[:, None], (y - centre[1])[None, :]
    angle = np.deg2rad(tilt_degrees)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    plane = (along / half_axes[0]) ** 2 + (across / half_axes[1]) ** 2
    return np.sqrt(plane.astype(np.float32)[:, :, None] + np.square((z - centre[2]) / half_axes[2]))


def _nuclei(grid: Grid, white: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, inside = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    for n, (name, centre, half_axes, tilt) in enumerate(NUCLEI, start=1):
        depth = np.clip((1.1 - _ellipsoid(grid, centre, half_axes, tilt)) * 4, 0, 1)
        if name in ("putamen", "caudate"):  # the capsule between them is white matter
            depth = depth * (1 - white / 255.0)
        own = (depth * 255).astype(np.uint8)
        label[own > inside] = n
        inside = np.maximum(inside, own)
    return label, inside


def _regions(grid: Grid, grey: np.ndarray, white: np.ndarray, nucleus: np.ndarray, brain_mm: np.ndarray) -> np.ndarray:
    """Where microbleeds are sown; fluid and the brain's outermost millimetre stay 0."""
    x, y, z = (grid.axis_mm(a) for a in range(3))
    tentorium = -6 - 0.35 * np.abs(x)[:, None] - 0.2 * np.maximum(0, -60 - y)[None, :]  # read off the T1 by eye
    below = (z < tentorium[:, :, None]) & (y < -38)[None, :, None]
    stem = np.min([_ellipsoid(grid, *part) for part in BRAINSTEM], axis=0) < 1
    ganglia = (nucleus > 0) & (nucleus <= 4)
    thalamus = (_ellipsoid(grid, *THALAMUS) < 1) & ~ganglia
    deep = _ellipsoid(grid, (15, -8, 4), (24, 34, 20)) < 1
    solid = grey.astype(np.uint16) + white > 230
    region = np.zeros(grid.shape, np.uint8)
    region[solid & (white > 190)] = 1
    region[solid & (grey > 64) & ~deep] = 2
    region[deep & (region == 1) & (ndimage.uniform_filter(white.astype(np.float32), 5) < 190)] = 0
    for number, where in ((3, below & ~stem), (4, ganglia), (5, thalamus), (6, stem)):
        region[solid & where] = number
    inner = np.repeat(np.repeat(np.repeat(brain_mm < -3, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in grid.shape)]
    return np.where(inner, region, 0).astype(np.uint8)


def _air(grid: Grid) -> np.ndarray:
    return np.max([np.clip((1.1 - _ellipsoid(grid, *space)) * 5, 0, 1) for space in AIR_SPACES], axis=0)
