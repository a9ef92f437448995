"""A head made of implicit shapes: skull, folded cortex, ventricles, deep nuclei, cerebellum, and how bright each is in SWI.

No template and no physics: positions are of a textbook's average adult, moved at random; all figures here are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from research.ood_simulator.shapes import chain, ellipsoid, smooth_noise, soft, zero_set

STEP_MM = 1.2
LOW_MM, HIGH_MM = np.array([-92.0, -112.0, -78.0]), np.array([92.0, 112.0, 96.0])
REGIONS = ("", "subcortical white matter", "cortex", "cerebellum", "basal ganglia", "thalamus", "brainstem")
# Nuclei: centre, semi-axes (mm; both sides), brightness at no and at most iron, region.
NUCLEI = (
    ((12, 31, 7), (5, 9, 8), (1.02, 0.72), 4),  # head of the caudate
    ((15, 12, 19), (3.5, 12, 4), (1.02, 0.75), 4),  # its body
    ((25, 20, 1), (5.5, 15, 10), (1.03, 0.62), 4),  # putamen
    ((18, 13, -1), (4.5, 8, 6.5), (0.85, 0.38), 4),  # pallidum
    ((10, -1, 8), (8, 14, 9), (1.08, 0.9), 5),  # thalamus
    ((5, -4, -9), (3.2, 3.2, 4), (0.85, 0.5), 6),  # red nucleus
    ((10, 1, -12), (5.5, 6.5, 2.4), (0.85, 0.5), 6),  # substantia nigra
    ((14, -40, -36), (6, 7, 3.5), (0.92, 0.55), 3),  # dentate
)
HORNS = (  # lateral ventricle: corners (mm, right side), radii of an average one
    (((9, 44, 5), (8, 30, 12), (9, 12, 19), (13, -8, 21), (21, -26, 16), (25, -36, 8)), (2.5, 4.2, 4, 4, 5.5, 5.5)),
    (((22, -28, 14), (24, -44, 9), (23, -56, 8)), (5, 3.5, 1)),
    (((25, -32, 6), (32, -14, -9), (31, 4, -17)), (4, 2, 1)),
)
STEM = (((0, 2, -6), (0, -5, -14), (0, -6, -28), (0, -18, -60), (0, -22, -80)), (15, 15, 14, 8, 7))


@dataclass(frozen=True)
class Traits:
    """A person and how this scan shows tissue; brightness is in units of white matter's. iron: 0 to 1. size: of three axes."""

    size: tuple[float, float, float]
    atrophy: float
    ventricles: float
    iron: float
    grey: float
    fluid: float
    bone: float
    fat: float
    texture: float
    lesions: int
    fold_mm: float


@dataclass(frozen=True)
class Head:
    """One head on a grid of STEP_MM from LOW_MM, all (I, J, K).

    brightness: float32, 1 in white matter. region: uint8, index into REGIONS, 0 elsewhere. Signed distances in mm: depth below the
    brain's smooth hull; pial, from the nearest fluid of a sulcus or surface; into the ventricles; into the skull's inside. moved:
    (3, I, J, K) mm, from a voxel to its place in the textbook's head.
    """

    brightness: np.ndarray
    region: np.ndarray
    depth: np.ndarray
    pial: np.ndarray
    ventricle: np.ndarray
    inside: np.ndarray
    moved: np.ndarray = field(repr=False)

    def voxels(self, where_mm: np.ndarray) -> np.ndarray:
        """Nearest voxels (N, 3) of places (N, 3) in mm; the border's, for places outside."""
        index = np.rint((np.asarray(where_mm) - LOW_MM) / STEP_MM).astype(int)
        return np.clip(index, 0, np.array(self.region.shape) - 1)

    def place(self, voxels: np.ndarray) -> np.ndarray:
        """Where voxels (N, 3), fractions allowed, lie, in mm."""
        return LOW_MM + STEP_MM * np.asarray(voxels)

    def at(self, name: str, where_mm: np.ndarray) -> np.ndarray:
        """Values (N,) of a field at places (N, 3) in mm."""
        return getattr(self, name)[tuple(self.voxels(where_mm).T)]

    def from_textbook(self, places_mm: np.ndarray) -> np.ndarray:
        """Where places (N, 3) of the textbook's head lie in this one, mm."""
        found = np.array(places_mm, dtype=float)
        for _ in range(3):
            found = places_mm - self.moved[(slice(None), *self.voxels(found).T)].T
        return found


def draw_traits(rng: np.random.Generator) -> Traits:
    """A person of middle or old age, and a scan's contrast."""
    age = rng.beta(2, 1.6)
    return Traits(
        size=tuple(float(s) for s in rng.normal(1.0, 0.035, 3).clip(0.92, 1.08)),
        atrophy=float(np.clip(age + rng.normal(0, 0.2), 0, 1)),
        ventricles=float(np.exp(0.9 * age - 0.45 + rng.normal(0, 0.2))),
        iron=float(np.clip(age + rng.normal(0, 0.25), 0, 1)),
        grey=float(rng.uniform(1.02, 1.28)),
        fluid=float(rng.choice([rng.uniform(0.5, 0.85), rng.uniform(0.85, 1.2)])),
        bone=float(rng.uniform(0.04, 0.16)),
        fat=float(rng.uniform(0.5, 1.7)),
        texture=float(rng.uniform(0.01, 0.035)),
        lesions=int(rng.poisson(14 * age)),
        fold_mm=float(rng.uniform(4.2, 5.4)),
    )


def build_head(rng: np.random.Generator, traits: Traits) -> Head:
    """Draw one head, some 4 s on one core."""
    shape = tuple(int(n) for n in np.ceil((HIGH_MM - LOW_MM) / STEP_MM))
    grid = np.stack(np.meshgrid(*(LOW_MM[n] + STEP_MM * np.arange(shape[n]) for n in range(3)), indexing="ij")).astype(np.float32)
    moved = np.stack([3.0 * smooth_noise(rng, shape, 16 / STEP_MM) for _ in range(3)])
    moved += grid * (1 / np.float32(traits.size) - 1).reshape(3, 1, 1, 1)
    p = grid + moved
    depth, cerebrum, tent = _cerebrum(p)
    inside = _skull_inside(p, traits)
    cerebellum, stem = _hindbrain(p, tent), chain(p, np.array(STEM[0], dtype=float), np.array(STEM[1]))
    pial, opened = _folds(rng, p, depth, cerebrum, traits)
    ventricle = _ventricles(p, traits)
    hull = np.minimum(np.maximum(np.maximum(cerebrum, cerebellum), stem), inside - 1)
    brightness = _outside(rng, p, inside, traits)
    region = np.zeros(shape, dtype=np.uint8)
    _paint_brain(rng, brightness, region, (hull, cerebrum, cerebellum, stem), (pial, opened), ventricle, traits)
    _paint_nuclei(rng, brightness, region, p, ventricle, traits)
    _paint(brightness, ventricle, traits.fluid, 0.8)
    region[(ventricle > -2) | (hull < 2)] = 0
    _texture(rng, brightness, region, ventricle, traits)
    _dropout(rng, brightness, p)
    return Head(brightness, region, depth, pial, ventricle, inside, moved)


def _egg(p: np.ndarray, axes: tuple[float, float, float], low: float) -> np.ndarray:
    """Hull of a brain or skull with semi-axes in mm, narrower to the front, `low` mm down from the middle."""
    q = p.copy()
    q[0] = p[0] * (1 + np.float32(0.0016) * (p[1] + 15))
    q[2] = np.where(p[2] > 0, p[2], p[2] * np.float32(axes[2] / low))
    return ellipsoid(q, (0, 0, 0), axes, square=True)


def _cerebrum(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth below its smooth hull, the cerebrum without the gap for the stem, and the height above the tent over the cerebellum."""
    x, y, z = p
    tent = z + 16 - 14 * np.exp(-((x / 28) ** 2)) - 0.12 * (y + 40)
    front = z + 22 + 3 * np.cos(x / 12)
    temporal_pole = np.sqrt(((np.abs(x) - 40) / 20) ** 2 + ((y - 8) / 34) ** 2 + ((z + 22) / 24) ** 2)
    depth = _egg(p, (66, 84, 71), 46)
    depth = np.minimum(depth, np.maximum(front + np.maximum(0, 2 * (8 - y)), 20 * (1 - temporal_pole)))
    above = tent - 0.7 + np.maximum(0, 2 * (y + 24))
    gap = ellipsoid(p, (0, -2, -34), (20, 26, 26), square=True)
    return depth, np.minimum(np.minimum(depth, above), -gap), tent


def _skull_inside(p: np.ndarray, traits: Traits) -> np.ndarray:
    gap = 1.5 + 3.5 * traits.atrophy
    x, y, z = p
    inside = _egg(p, (66 + gap, 84 + gap, 71 + gap), 62)
    return np.minimum(
        inside,
        np.minimum(z + 25 + 3 * np.cos(x / 12) + np.maximum(0, 1.6 * (24 - y) - 0.6 * np.maximum(0, np.abs(x) - 12)), z + 66),
    )


def _hindbrain(p: np.ndarray, tent: np.ndarray) -> np.ndarray:
    halves = np.maximum(
        ellipsoid(p, (23, -46, -34), (35, 33, 32), square=True),
        np.maximum(ellipsoid(p, (-23, -46, -34), (35, 33, 32), square=True), ellipsoid(p, (0, -46, -28), (14, 32, 30))),
    )
    return np.minimum(halves, -tent - 0.7)


def _folds(rng: np.random.Generator, p: np.ndarray, depth: np.ndarray, cerebrum: np.ndarray, traits: Traits) -> tuple:
    """Distance in mm to the nearest sulcus, fissure or surface (I, J, K), and half the width of the open sulci, mm.

    Sulci are the zero sets of noise that hardly changes with depth, cut off at a depth that wanders: gyri stand upright.
    """
    shape, mm = depth.shape, 1 / STEP_MM
    length = np.maximum(np.sqrt((p**2).sum(axis=0)), 1)
    lifted = 1 + 0.7 * np.clip(depth, 0, 40) / length  # most of the way up to the hull
    noise = smooth_noise(rng, shape, traits.fold_mm * mm, 1.6 * traits.fold_mm * mm)
    index = [(p[n] * lifted + 2.5 * smooth_noise(rng, shape, 7 * mm) - LOW_MM[n]) / STEP_MM for n in range(3)]
    sheet = zero_set(ndimage.map_coordinates(noise, index, order=1, mode="nearest", output=np.float32), STEP_MM)
    bottom = 15 + 6 * smooth_noise(rng, shape, 8 * mm)
    opened = 0.15 + (0.3 + 0.9 * traits.atrophy) * np.exp(0.6 * smooth_noise(rng, shape, 9 * mm)) * soft(25 - depth, 20)
    away = np.hypot(np.maximum(sheet - opened, 0), np.maximum(depth - bottom, 0))
    x, y, z = p
    middle = x - 1.2 * smooth_noise(rng, shape, 18 * mm)
    callosum = ellipsoid(p, (0, -4, -2), (99, 46, 31))
    away = np.minimum(away, np.hypot(np.maximum(np.abs(middle) - 0.4 - 0.7 * traits.atrophy, 0), np.maximum(callosum, 0)))
    sylvian = z + 14 - 0.45 * (28 - y) - 3 * smooth_noise(rng, shape, 10 * mm)
    ends = np.maximum(np.maximum(38 - np.abs(x), np.abs(y + 2) - 32), 0)
    away = np.minimum(away, np.hypot(np.maximum(np.abs(sylvian) - 0.4 - traits.atrophy, 0), ends))
    return np.minimum(away, np.maximum(cerebrum, 0)), opened


def _ventricles(p: np.ndarray, traits: Traits) -> np.ndarray:
    whole = np.full(p.shape[1:], -30, dtype=np.float32)
    box = _around((0, 0, 0), np.array([34.0, 50.0, 28.0]))
    p, wide = p[box], traits.ventricles
    inside = np.maximum(ellipsoid(p, (0, 4, 0), (0.8 + 1.4 * wide, 14, 9)), ellipsoid(p, (0, -25, -31), (5, 3 + wide, 9)))
    flat = p * np.float32([1.25, 1, 1]).reshape(3, 1, 1, 1)  # taller than wide
    for path, radii in HORNS:
        for side in (-1, 1):
            corners = np.array(path, dtype=float) * (side * 1.25, 1, 1)
            inside = np.maximum(inside, chain(flat, corners, np.array(radii) * wide))
    whole[box[1:]] = np.maximum(inside, -30)
    return whole


def _outside(rng: np.random.Generator, p: np.ndarray, inside: np.ndarray, traits: Traits) -> np.ndarray:
    """Brightness of air, scalp, skull, the base below and the fluid around the brain."""
    shape, mm = inside.shape, 1 / STEP_MM
    bright = np.zeros(shape, dtype=np.float32)
    bone, scalp = 5 + rng.uniform(0, 3), 4 + rng.uniform(0, 4)
    head = _egg(p, (66 + 16, 84 + 15, 71 + 16), 120)
    hull = np.minimum(_egg(p, (68, 86, 73), 140), 0) + bone
    patches = smooth_noise(rng, shape, 3.5 * mm)
    below = 0.45 + 0.35 * np.tanh(patches) - 0.6 * (smooth_noise(rng, shape, 6 * mm) > 0.9)
    skin = np.maximum(hull + scalp + 1.2 * smooth_noise(rng, shape, 9 * mm), np.where(p[2] < -30, np.minimum(head, 12), -99))
    _paint(bright, skin, traits.fat * (0.75 + 0.15 * patches), 1.2)
    _paint(bright, hull, np.where(p[2] < -20, np.maximum(below, 0), traits.bone), 1.0)
    marrow = np.minimum(hull - 1.5, bone - 1.5 - hull)
    _paint(bright, np.minimum(marrow, p[2] + 15), traits.bone + rng.uniform(0.05, 0.4), 1.0)
    _paint(bright, inside + 2.5, traits.bone, 1.0)  # the inner table, on the base too
    _paint(bright, inside, traits.fluid, 0.8)
    return bright


def _paint_brain(rng, bright, region, parts, folds, ventricle, traits: Traits) -> None:
    """Grey and white matter of cerebrum, cerebellum and stem, in place."""
    hull, cerebrum, cerebellum, stem = parts
    pial, _ = folds
    thick = 2.6 + 0.5 * smooth_noise(rng, bright.shape, 8 / STEP_MM)
    matter = traits.grey + (1 - traits.grey) * soft(pial - thick, 0.9)
    folia = zero_set(smooth_noise(rng, bright.shape, 1.8, 3.0), STEP_MM)
    matter = np.where(
        cerebellum > cerebrum, 0.5 + traits.grey / 2 - (traits.grey - traits.fluid) * 0.35 * soft(0.5 - folia, 0.7), matter
    )
    core = soft(np.minimum(cerebellum - 11, 3), 4)  # white matter in the middle of the cerebellum
    matter = np.where(cerebellum > cerebrum, matter + (1 - matter) * core, matter)
    matter = np.where((stem > cerebrum) & (stem > cerebellum), 1.0, matter).astype(np.float32)
    _paint(bright, hull, matter, 0.7)
    in_cerebrum = (cerebrum > np.maximum(cerebellum, stem)) & (hull > 0)
    _paint(bright, np.where(in_cerebrum & (hull < 60), 0.25 - pial, -9), traits.fluid, 0.6)
    region[in_cerebrum & (pial > thick + 1.5)] = 1
    region[in_cerebrum & (pial > 0.5) & (pial <= thick + 1.5)] = 2
    region[(cerebellum > np.maximum(cerebrum, stem)) & (cerebellum > 2)] = 3
    region[(stem > np.maximum(cerebrum, cerebellum)) & (stem > 2.5)] = 6


def _paint_nuclei(rng, bright, region, p, ventricle, traits: Traits) -> None:
    mottled = smooth_noise(rng, bright.shape, 2.2 / STEP_MM)
    for centre, axes, (young, old), number in NUCLEI:
        iron = float(np.clip(traits.iron + rng.normal(0, 0.12), 0, 1))
        for side in (-1, 1):
            at = (side * centre[0] + rng.normal(0, 0.5), centre[1] + rng.normal(0, 1), centre[2] + rng.normal(0, 1))
            size = np.array(axes) * rng.normal(1, 0.06, 3)
            box = _around(at, size)
            shape = np.minimum(ellipsoid(p[box], at, size, square=True) + 0.5 * mottled[box[1:]], -ventricle[box[1:]] - 0.5)
            tone = (young + (old - young) * iron) * (1 + 0.05 * mottled[box[1:]]) - 0.05 * (p[1][box[1:]] < at[1])
            part = bright[box[1:]]
            _paint(part, shape, tone, 1.2)
            region[box[1:]][shape > 0.5] = number


def _around(at: tuple[float, float, float], half_mm: np.ndarray) -> tuple[slice, ...]:
    """The part of (3, I, J, K) within 1.6 times `half_mm`, and the 12 mm a head may be moved, of a place."""
    low = np.floor((np.array(at) - 1.6 * half_mm - 12 - LOW_MM) / STEP_MM).astype(int)
    high = np.ceil((np.array(at) + 1.6 * half_mm + 12 - LOW_MM) / STEP_MM).astype(int)
    return (slice(None), *(slice(max(0, a), b) for a, b in zip(low, high, strict=True)))


def _texture(rng, bright, region, ventricle, traits: Traits) -> None:
    """Uneven tissue, tracts a little darker, and white-matter lesions a little brighter near the ventricles."""
    shape, mm = bright.shape, 1 / STEP_MM
    uneven = traits.texture * (smooth_noise(rng, shape, 1.0 * mm) + smooth_noise(rng, shape, 3 * mm))
    tracts = -0.06 * soft(smooth_noise(rng, shape, 6 * mm) - 1, 0.6) * (region == 1)
    bright *= 1 + uneven + tracts
    near = np.argwhere((region == 1) & (ventricle > -16))
    for n in rng.choice(len(near), min(len(near), traits.lesions), replace=False) if len(near) else ():
        half = rng.uniform(1.5, 5, 3) / STEP_MM
        low = np.maximum(near[n] - np.ceil(2 * half).astype(int), 0)
        box = tuple(slice(a, b) for a, b in zip(low, near[n] + np.ceil(2 * half).astype(int) + 1, strict=True))
        index = np.indices(bright[box].shape).reshape(3, -1).T + low
        away = (((index - near[n]) / half) ** 2).sum(axis=1).reshape(bright[box].shape)
        bright[box] *= 1 + rng.uniform(0.05, 0.2) * np.exp(-away) * (region[box] == 1)


def _dropout(rng: np.random.Generator, bright: np.ndarray, p: np.ndarray) -> None:
    """Signal lost above the air of the nose and at the ears, with a ragged border."""
    ragged = 3 * smooth_noise(rng, bright.shape, 4 / STEP_MM)
    places = [((rng.normal(0, 3), 44 + rng.normal(0, 4), -24), (14, 16, 6 + 8 * rng.random()))]
    places += [((side * 46, -12 + rng.normal(0, 4), -40), (13, 12, 6 + 6 * rng.random())) for side in (-1, 1)]
    for centre, axes in places:
        bright *= 1 - rng.uniform(0.6, 0.97) * soft(ellipsoid(p, centre, axes) + ragged, 5)


def _paint(bright: np.ndarray, distance_mm: np.ndarray, value: np.ndarray | float, edge_mm: float) -> None:
    """Cover a shape with a brightness, in place."""
    bright += (value - bright) * soft(distance_mm, edge_mm)
