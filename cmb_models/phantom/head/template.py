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
INNER_MM, EDGE_MM = 3.0, (0.5, 2.5)  # depth of places in general, and of those at the edge, which a microbleed touches: assumed
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
VENTRICLE_SEED_MM = (10.0, -12.0, 22.0)  # in the body of a lateral ventricle: read off the maps
VENTRICLE_BLUR_MM = 5.0  # how far around the ventricles tissue makes way for them: assumed
BRAINSTEM = (((0, -24, -13), (14, 10, 9)), ((0, -27, -33), (15, 12, 14)), ((0, -37, -52), (9, 8, 16)))  # midbrain, pons, medulla
AIR_SPACES = (  # centre and half axes, mm: frontal, ethmoid, sphenoid sinuses, mastoid cells
    ((8, 74, -24), (9, 6, 9)),
    ((0, 48, -40), (11, 16, 9)),
    ((0, 14, -42), (10, 12, 8)),
    ((54, -32, -46), (7, 10, 9)),
)


@dataclass(frozen=True)
class Template:
    """Maps on the 1 mm grid `full` unless stated otherwise.

    grey, white: uint8 probability x 255. nucleus: uint8, 0 or 1 + index into NUCLEI. iron: uint8, how far inside x 255.
    region: uint8, 0 or 1 + index into REGIONS. On `half`: brain_mm and head_mm, signed distance in mm to the surface of the
    brain and of the brain filled out downwards, negative inside, and air (0..1), all float32.
    own_sulci: whether a subject's sulci are in the maps, as wide as they are to be (cortex.fold).
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
    own_sulci: bool = False

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """Voxel centres by region, MNI mm (N, 3) float32, at least INNER_MM inside the brain's surface.

        "cortex_edge" holds the cortex that is nearer to the surface.
        """
        places = {}
        for number, name in enumerate(REGIONS, start=1):
            at = np.argwhere(self.region == number).astype(np.float32)
            depth_mm = -ndimage.map_coordinates(self.brain_mm, at.T / HALF_MM, order=1, mode="nearest")
            mni = at + np.asarray(self.full.origin_mm, np.float32)
            places[name] = mni[depth_mm >= INNER_MM]
            if name == "cortex_junction":
                places["cortex_edge"] = mni[(depth_mm >= EDGE_MM[0]) & (depth_mm <= EDGE_MM[1])]
        return places

    @cached_property
    def tissue(self) -> np.ndarray:
        """(I, J, K, 4) uint8: grey, white, iron, and an empty one for a subject's white-matter lesions; one look-up gives all."""
        return np.stack([self.grey, self.white, self.iron, np.zeros_like(self.grey)], axis=-1)

    @cached_property
    def ventricle_mm(self) -> np.ndarray:
        """Signed distance in mm to the walls of the lateral ventricles on `half`, negative within: (I, J, K) float32."""
        tissue = self.grey[::2, ::2, ::2].astype(np.uint16) + self.white[::2, ::2, ::2]
        parts, _ = ndimage.label((tissue < 128) & (self.brain_mm < -22))  # -22: without the sulci
        seed = parts[tuple(np.rint(self.half.index(np.array(VENTRICLE_SEED_MM))).astype(int))]
        return _signed_distance(parts == seed)

    @cached_property
    def to_ventricles(self) -> np.ndarray:
        """Smooth field (3, I, J, K) float32 on `half` towards the lateral ventricles, 0.9 long at their walls, at most 1.2."""
        blurred = ndimage.gaussian_filter((self.ventricle_mm < 0).astype(np.float32), VENTRICLE_BLUR_MM / HALF_MM)
        field = np.stack(np.gradient(blurred, HALF_MM))
        length = np.sqrt((field**2).sum(0))
        field /= np.median(length[np.abs(self.ventricle_mm) < HALF_MM / 2])
        return field / (1 + ((field**2).sum(0) / 1.2**2) ** 2) ** 0.25

    @cached_property
    def periventricular(self) -> np.ndarray:
        """MNI mm (N, 3) of white matter along the walls of the lateral ventricles, their horns counted three times."""
        at = self._white_where((self.ventricle_mm > 0) & (self.ventricle_mm < 4))
        at = at[np.abs(at[:, 0]) > 13]  # not in the corpus callosum
        horns = at[(at[:, 1] > 16) | (at[:, 1] < -36)]  # caps are commoner than bands
        return np.concatenate([at, horns, horns])

    @cached_property
    def deep_white(self) -> np.ndarray:
        """MNI mm (N, 3) of white matter off the ventricles and off the fibres next to the cortex."""
        white = ndimage.uniform_filter(self.white[::2, ::2, ::2].astype(np.float32), 3)
        z = self.half.axis_mm(2)
        return self._white_where((self.ventricle_mm > 6) & (white > 235) & (z > 2))

    def _white_where(self, where: np.ndarray) -> np.ndarray:
        mostly_white = (self.white > 178)[::2, ::2, ::2] & (self.nucleus == 0)[::2, ::2, ::2]
        return np.argwhere(where & mostly_white) * HALF_MM + np.array(self.half.origin_mm)

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
    t1, grey, white = (np.asarray(nib.Nifti1Image.from_filename(map_path(kind)).dataobj) for kind in ("t1", "gm", "wm"))
    full = Grid(t1.shape, (1.0, 1.0, 1.0), (-98.0, -134.0, -72.0))
    half = Grid(t1[::2, ::2, ::2].shape, (HALF_MM,) * 3, full.origin_mm)
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(t1[::2, ::2, ::2] > 0, iterations=2))
    base = int(np.searchsorted(half.axis_mm(2), BASE_Z_MM))
    head = brain.copy()
    head[:, :, : base + 1] = np.logical_or.accumulate(brain[:, :, base::-1], axis=2)[:, :, ::-1]
    brain_mm, head_mm = (_signed_distance(m) for m in (brain, head))
    nucleus, iron = _nuclei(full, white)
    region = find_regions(full, grey, white, nucleus, brain_mm)
    air = _air(half) * np.clip((brain_mm - 2) / 2, 0, 1)
    return Template(full, grey, white, nucleus, iron, region, half, brain_mm, head_mm, air.astype(np.float32))


def map_path(kind: str) -> Path:
    """Where nilearn keeps its MNI152 map t1, gm or wm; InputError when it is not installed. nilearn itself is not imported."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError(
            "package-missing", "phantom", "the package nilearn, which carries the MNI152 maps", "none", "pip install nilearn"
        )
    path = Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise InputError(
            "file-not-found", path, "the MNI152 map of nilearn", "no such file", "install a nilearn that carries it (0.13 does)"
        )
    return path


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    outside = ndimage.distance_transform_edt(~mask, sampling=HALF_MM)
    inside = ndimage.distance_transform_edt(mask, sampling=HALF_MM)
    return ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.8)


def ellipsoid(grid: Grid, centre, half_axes, tilt_degrees: float = 0.0) -> np.ndarray:
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
        depth = np.clip((1.1 - ellipsoid(grid, centre, half_axes, tilt)) * 4, 0, 1)
        if name in ("putamen", "caudate"):  # the capsule between them is white matter
            depth = depth * (1 - white / 255.0)
        own = (depth * 255).astype(np.uint8)
        label[own > inside] = n
        inside = np.maximum(inside, own)
    return label, inside


def tentorium_mm(x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
    """Height z of the tentorium in MNI mm, read off the T1 by eye; below it and behind y = -38 lies the cerebellum."""
    return -6 - 0.35 * np.abs(x_mm) - 0.2 * np.maximum(0, -60 - y_mm)


def find_regions(grid: Grid, grey: np.ndarray, white: np.ndarray, nucleus: np.ndarray, brain_mm: np.ndarray) -> np.ndarray:
    """Where microbleeds are sown; fluid and what lies nearer to the brain's surface than EDGE_MM stay 0."""
    x, y, z = (grid.axis_mm(a) for a in range(3))
    below = (z < tentorium_mm(x[:, None], y)[:, :, None]) & (y < -38)[None, :, None]
    stem = np.min([ellipsoid(grid, *part) for part in BRAINSTEM], axis=0) < 1
    ganglia = (nucleus > 0) & (nucleus <= 4)
    thalamus = (ellipsoid(grid, *THALAMUS) < 1) & ~ganglia
    deep = ellipsoid(grid, (15, -8, 4), (24, 34, 20)) < 1
    solid = grey.astype(np.uint16) + white > 230
    region = np.zeros(grid.shape, np.uint8)
    region[solid & (white > 190)] = 1
    region[solid & (grey > 64) & ~deep] = 2
    region[deep & (region == 1) & (ndimage.uniform_filter(white.astype(np.float32), 5) < 190)] = 0
    for number, where in ((3, below & ~stem), (4, ganglia), (5, thalamus), (6, stem)):
        region[solid & where] = number
    inner = np.repeat(np.repeat(np.repeat(brain_mm < -EDGE_MM[0] + HALF_MM / 2, 2, 0), 2, 1), 2, 2)[
        tuple(slice(n) for n in grid.shape)
    ]
    return np.where(inner, region, 0).astype(np.uint8)


def _air(grid: Grid) -> np.ndarray:
    return np.max([np.clip((1.1 - ellipsoid(grid, *space)) * 5, 0, 1) for space in AIR_SPACES], axis=0)


def look_up(maps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Four maps (I, J, K, 4) uint8 at voxel indices `at` (3, N) float32, linearly: (4, N) float32, 0..1; outside, the edge holds.

    The four numbers of a voxel are fetched as one 32-bit word; the last two maps, mostly 0, are worked out only where they are not.
    """
    at = np.clip(at, 0, np.array(maps.shape[:3], np.float32)[:, None] - np.float32(1.001))
    low = at.astype(np.int32)
    part = at - low
    strides = np.array([maps.shape[1] * maps.shape[2], maps.shape[2], 1])
    base = strides @ low
    words = maps.view(np.uint32).reshape(-1)
    x, y, z = part
    plane = [(1 - x) * (1 - y), (1 - x) * y, x * (1 - y), x * y]
    values = np.zeros((4, at.shape[1]), np.float32)
    fetched, weights = [], []
    seen = np.zeros(at.shape[1], np.uint32)
    for n, corner in enumerate(np.ndindex(2, 2, 2)):
        word = np.take(words, base + strides @ corner)
        weight = plane[n // 2] * (z if corner[2] else 1 - z)
        seen |= word
        for m in range(2):
            values[m] += weight * word.view(np.uint8)[m::4]
        fetched.append(word)
        weights.append(weight)
    some = np.flatnonzero(seen.view(np.uint8).reshape(-1, 4)[:, 2:].any(axis=1))
    for word, weight in zip(fetched, weights, strict=True):
        for m in (2, 3):
            values[m, some] += weight[some] * word.view(np.uint8)[m::4][some]
    return values * np.float32(1 / 255)
