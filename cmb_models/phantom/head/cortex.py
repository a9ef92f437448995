"""A subject's own gyri and sulci: the template's blurred cortex made sharp, moved, and given further sulci and cerebellar folia.

The MNI152 maps are averages of many brains: grey matter and fluid share the voxels of each sulcus. What remains of a sulcus is a
dip in the share of tissue, and the sheet half way between two banks of white matter. Both are found once per process; each subject
gets them displaced and opened at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from cmb_models.phantom.grid import Grid, resample
from cmb_models.phantom.head.template import (
    BRAINSTEM,
    Template,
    ellipsoid,
    find_regions,
    load_template,
    tentorium_mm,
)
from cmb_models.phantom.head.traits import Traits
from cmb_models.volume import triple

SHARPEN = {"white": (1.2, 3.0), "tissue": (1.5, 2.5)}  # gain, and blur in mm of what is subtracted: by eye, gyri become solid
FLUID_LEVEL, FLUID_RANGE = 0.72, 0.3  # of the sharpened share of tissue: below, a voxel holds fluid, over this range in part
SHEET_BEND = (0.25, 0.6)  # -laplacian of the distance to white matter, per mm, where a sheet begins, and from there to a full one
BANK_MM = 1.0  # from white matter, nearer to which there is no sheet
DEEP = ((15, -8, 4), (26, 36, 22))  # half axes of nuclei and insula in MNI mm, left as they are in the template
MOVED_MM, MOVED_NODES_MM = 1.2, 8.0  # standard deviation of the folds' own displacement, and its nodes: assumed
THICKNESS_MM = (2.6, 0.3, 14.0)  # of the cortex along new sulci: mean, spread within a head, mm between nodes; 2.5 to 2.7 in MRI
OPEN = (0.9, 0.35, 16.0)  # how much of a sulcus's middle is fluid: mean, spread within a head, mm between nodes. Assumed
OPEN_LEAST, OPEN_MOST, OPEN_PER_WIDENING = 0.15, 1.6, 0.4  # the last: per Traits.sulcal_widening. Assumed
SULCUS_NODES_MM, SULCUS_HALF_MM = 10.0, 1.6  # of the field whose zeros are further sulci; their half width with soft edges. By eye
SULCUS_DEPTH_MM = (9.0, 4.0, 18.0)  # of further sulci: mean, spread within a head, mm between nodes. Assumed
STRAIGHT_MM, STRAIGHT = 14.0, 0.9  # further sulci go down across the surface to here; 1 would be exactly
FOLIA_MM, FOLIA_BEND_MM, FOLIA_OPEN, FOLIA_DEPTH_MM = 4.2, 1.2, 0.8, (10.0, 15.0)  # apart, unevenness, fluid, depth: by eye
CEREBELLUM_MM, CEREBELLUM_AXES = (6.0, -44.0, -28.0), (1.15, 1.0, 0.9)  # folia run around this: by eye


@dataclass(frozen=True)
class _Folds:
    """What all subjects share, on `grid`, a box of the template around the brain, all (I, J, K) float32.

    white_mm: distance to white matter, negative inside. sheet: 0..1, the middle between two banks. fluid: 0..1, by the sharpened
    maps. cerebrum, cerebellum: 0..1, where each is folded. depth_mm: below the brain's surface. normal: (3, I, J, K), outwards.
    """

    box: tuple[slice, ...]
    grid: Grid
    white_mm: np.ndarray
    sheet: np.ndarray
    fluid: np.ndarray
    cerebrum: np.ndarray
    cerebellum: np.ndarray
    depth_mm: np.ndarray
    normal: np.ndarray


def fold(seed: np.random.SeedSequence, traits: Traits) -> Template:
    """The template with a subject's own cortex: grey, white and region; its sulci are as wide as the subject's traits say."""
    template, folds, rng = load_template(), _folds(), np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in folds.grid.shape), indexing="ij"))
    moved = at + MOVED_MM * np.stack([_noise(rng, folds.grid, MOVED_NODES_MM) for _ in range(3)])
    white_mm, sheet, fluid = (_at(m, moved) for m in (folds.white_mm, folds.sheet, folds.fluid))
    mean, spread, nodes = OPEN
    share = mean + OPEN_PER_WIDENING * traits.sulcal_widening + spread * _noise(rng, folds.grid, nodes)
    share = np.clip(share, OPEN_LEAST, OPEN_MOST)
    cut, grey_mm = _further_sulci(rng, folds, at)
    grey, white = (m[folds.box] / np.float32(255) for m in (template.grey, template.white))
    own_white = np.clip(0.5 - white_mm, 0, 1) * np.clip(0.5 - grey_mm, 0, 1)
    own_fluid = np.clip(np.maximum(fluid, np.maximum(sheet, cut) * share), 0, 1)
    there = folds.cerebrum
    fluid = there * own_fluid + (1 - there) * np.clip(1 - grey - white, 0, 1)
    fluid = np.maximum(fluid, _folia(rng, folds, white))
    white = np.minimum(there * own_white + (1 - there) * white, 1 - fluid)
    whole = {"white": white, "grey": 1 - fluid - white}
    maps = {}
    for name, share_of in whole.items():
        maps[name] = getattr(template, name).copy()
        inside = folds.depth_mm > 0
        maps[name][folds.box][inside] = np.rint(np.clip(share_of[inside], 0, 1) * 255).astype(np.uint8)
    region = find_regions(template.full, maps["grey"], maps["white"], template.nucleus, template.brain_mm)
    return replace(template, **maps, region=region, own_sulci=True)


def _further_sulci(rng: np.random.Generator, folds: _Folds, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sulci that the average brain lacks: their fluid, 0..1, and depth in mm within the grey matter along them, both (I, J, K).

    They lie where a random field of the brain's surface is zero: an even maze, as gyri are.
    """
    depth = folds.depth_mm
    surface = at + folds.normal * (STRAIGHT * np.clip(depth, 0, STRAIGHT_MM))
    field = _at(_noise(rng, folds.grid, SULCUS_NODES_MM), surface)
    smooth = ndimage.gaussian_filter(field, 0.7)
    slope = np.sqrt(sum(np.gradient(smooth, axis=a) ** 2 for a in range(3)))
    across = np.abs(field) / np.maximum(slope, 0.03)
    mean, spread, nodes = SULCUS_DEPTH_MM
    bottom = mean + spread * _noise(rng, folds.grid, nodes)
    fluid = np.clip(SULCUS_HALF_MM - across, 0, 1) * np.clip(bottom - depth, 0, 1)
    mean, spread, nodes = THICKNESS_MM
    thickness = mean + spread * _noise(rng, folds.grid, nodes)
    return fluid, thickness - np.maximum(across, depth - bottom)


def _folia(rng: np.random.Generator, folds: _Folds, white: np.ndarray) -> np.ndarray:
    """Fluid between the folia of the cerebellum, 0..1 (I, J, K): shells around its middle, bent at random, near its surface."""
    x, y, z = (folds.grid.axis_mm(a).astype(np.float32) for a in range(3))
    shifted = (np.abs(x) - CEREBELLUM_MM[0], y - CEREBELLUM_MM[1], z - CEREBELLUM_MM[2])
    u, v, w = (s / a for s, a in zip(shifted, CEREBELLUM_AXES, strict=True))
    radius = np.sqrt((u**2)[:, None, None] + (v**2)[:, None] + w**2) + FOLIA_BEND_MM * _noise(rng, folds.grid, 10.0)
    shells = np.clip(1 - np.abs(radius / FOLIA_MM % 1 - 0.5) * FOLIA_MM, 0, 1)
    shallow, deep = FOLIA_DEPTH_MM
    near = np.clip((deep - folds.depth_mm) / (deep - shallow), 0, 1)
    return folds.cerebellum * shells * near * np.clip(1.3 - 1.3 * white, 0, 1) * FOLIA_OPEN


@lru_cache(maxsize=1)
def _folds() -> _Folds:
    template = load_template()
    inside = np.argwhere(template.brain_mm < 2) * 2
    low, high = np.maximum(inside.min(0) - 2, 0), np.minimum(inside.max(0) + 4, template.full.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    origin = triple(float(o + a) for o, a in zip(template.full.origin_mm, low, strict=True))
    grid = Grid(triple(int(n) for n in high - low), template.full.spacing_mm, origin)
    grey, white = (m[box] / np.float32(255) for m in (template.grey, template.white))
    level = _sharpened(ndimage.gaussian_filter(white, 0.5), *SHARPEN["white"])
    white_mm = _distance_mm(level)
    tissue = _sharpened(grey + white, *SHARPEN["tissue"])
    fluid = np.clip((FLUID_LEVEL - tissue) / FLUID_RANGE + 0.5, 0, 1)
    bend = -ndimage.laplace(ndimage.gaussian_filter(white_mm, 0.6))
    sheet = np.clip((bend - SHEET_BEND[0]) / SHEET_BEND[1], 0, 1) * np.clip(white_mm - BANK_MM, 0, 1)
    brain_mm, ventricle_mm = (resample(m, template.half, grid) for m in (template.brain_mm, template.ventricle_mm))
    normal = np.stack(np.gradient(ndimage.gaussian_filter(brain_mm, 1.5)))
    normal /= np.maximum(np.sqrt((normal**2).sum(0)), 0.05)
    cerebrum, cerebellum = _zones(grid, ventricle_mm)
    return _Folds(box, grid, white_mm, sheet, fluid, cerebrum, cerebellum, -brain_mm, normal)


def _zones(grid: Grid, ventricle_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the cerebral cortex and the cerebellum are folded, 0..1 with soft borders: neither at nuclei, brainstem, ventricles."""
    x, y, z = (grid.axis_mm(a) for a in range(3))
    below = (z < tentorium_mm(x[:, None], y)[:, :, None] + 1) & (y < -38)[None, :, None]
    stem = np.min([ellipsoid(grid, *part) for part in BRAINSTEM], axis=0)
    cerebrum = np.clip((ellipsoid(grid, *DEEP) - 1) * 6, 0, 1) * np.clip((stem - 1) * 4, 0, 1)
    cerebrum *= ~below * np.clip((ventricle_mm - 3) / 2, 0, 1)
    return ndimage.gaussian_filter(cerebrum, 1.0), ndimage.gaussian_filter((below & (stem > 1.1)).astype(np.float32), 1.0)


def _sharpened(share: np.ndarray, gain: float, blur_mm: float) -> np.ndarray:
    return share + gain * (share - ndimage.gaussian_filter(share, blur_mm))


def _distance_mm(share: np.ndarray) -> np.ndarray:
    """From the surface where a share is 0.5, in mm on a 1 mm grid, negative inside; to a fraction of a voxel near it."""
    inside = share > 0.5
    slope = np.sqrt(sum(np.gradient(share, axis=a) ** 2 for a in range(3)))
    into = np.clip((share - 0.5) / np.maximum(slope, 0.15), -0.9, 0.9).astype(np.float32)  # mm from a voxel's middle outwards
    away, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    outside = away - into[tuple(nearest)]
    return np.where(inside, -np.maximum(into, ndimage.distance_transform_edt(inside) - 0.5), outside).astype(np.float32)


def _noise(rng: np.random.Generator, grid: Grid, nodes_mm: float) -> np.ndarray:
    """A smooth Gaussian field of unit variance at its nodes, (I, J, K) float32."""
    nodes = grid.coarse(nodes_mm)
    values = ndimage.gaussian_filter(rng.standard_normal(nodes.shape, dtype=np.float32), 0.7)
    return resample(values / values.std(), nodes, grid)


def _at(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values (I, J, K) at voxel indices (3, ...), linearly; outside, the nearest edge holds."""
    return ndimage.map_coordinates(values, at, np.float32, order=1, mode="nearest")
