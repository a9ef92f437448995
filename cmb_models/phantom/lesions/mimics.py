"""What readers take for microbleeds: drawn for one head, each labelled by its kind."""

from __future__ import annotations

import numpy as np

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.grid import lookup
from cmb_models.phantom.head.anatomy import AIR_PPM
from cmb_models.phantom.head.template import NUCLEI
from cmb_models.phantom.head.warp import Warp
from cmb_models.phantom.lesions.bloom import body_radius_mm
from cmb_models.phantom.lesions.bodies import tube_volume_mm3
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.lesions.placing import ANYWHERE, Placer
from cmb_models.phantom.veins.raster import Veins, cross_sections, junctions

DIAMETER_MM = (2.0, 5.0)  # as seen, of calcifications, iron spots and veins that resemble microbleeds: assumed
SITE_SPREAD_MM, SITE_TRIES = 1.5, 30  # around a usual place: assumed

CALCIUM_PPM = (-0.2, -2.0)  # docs/explanation/phantom.md
CALCIUM_SITES = {  # MNI mm, and share of scans (assumed, from what CT shows at 50 to 90 years); those off the midline on each side
    "pineal": ((0, -28, 3), 0.40),
    "choroid_plexus": ((23, -42, 8), 0.25),
    "globus_pallidus": ((19, -4, -1), 0.10),
    "falx": ((0, 20, 58), 0.10),
}
ODD_CALCIUM = 0.2  # share of scans with a calcification in white matter or cortex: assumed

IRON_PPM = (0.2, 0.6)  # of a spot, over its nucleus: assumed
IRON_NUCLEI = {"globus_pallidus": 0.55, "putamen": 0.30, "dentate": 0.15}  # where spots lie: assumed shares
IRON_YEARS = (40.0, 100.0)  # ages at which no scan and every scan has such spots: assumed

VEINS, BRANCHES = 4, 2  # marked at most: assumed
VEIN_APART_MM = 6.0  # from any other centre
VEIN_DEPTH_MM = 4.0  # inside the brain's surface: nearer, the skull's darkness would be marked (assumed)
SEEN_PER_RADIUS = 2.2  # a vein through slices, from 0.5 mm radius and 0.5 to 1 mm pixels on: research/phantom_bloom.py

AIR_SITES_MM = {  # MNI mm on the right: read off the T1 by eye
    "frontal_sinus": (16, 66, 4),
    "orbital_roof": (28, 44, -20),
    "petrous_bone": (46, -30, -34),
    "sphenoid_sinus": (28, 16, -44),
    "mastoid_cells": (56, -44, -31),
}
AIR_SITE_MM = 10.0  # extent of a site: assumed
AIR_COUNT = (0.4, 0.35, 0.25)  # share of scans with 0, 1 and 2: assumed
AIR_VOID_MM, AIR_DEPTH = (3.5, 6.5), (0.7, 1.0)  # diameter of a pocket's void; how deep it reaches, over its radius: assumed

CAVERNOMA_SCANS = 0.1  # share of scans; far rarer in people (0.5 %), kept often enough to learn from: assumed
CAVERNOMA_MM, CAVERNOMA_PPM = (6.0, 15.0), (0.3, 0.8)  # diameter; haemosiderin of the rim: assumed
CAVERNOMA_SEEN = 1.1  # its seen over its body's diameter, 1.0 to 1.25 by susceptibility: research/phantom_bloom.py
CAVERNOMA_REGIONS = ("subcortical_white", "cortex_junction", "cerebellum", "brainstem")

FLOW_COUNT = (0.4, 0.3, 0.2, 0.1)  # share of scans with 0, 1, 2, 3: assumed
FLOW_LENGTH_MM, FLOW_RADIUS_MM = (2.0, 8.0), (0.6, 1.3)  # assumed
ARTERIES = {  # points in MNI mm on the right: read off the T1 by eye
    "middle_cerebral": ((10, 5, -17), (20, 5, -18), (29, 7, -16), (37, 9, -11), (43, 4, -4), (44, -6, 0), (44, -14, 4)),
    "anterior_cerebral": ((1, 12, -14), (1, 26, -8), (1, 36, 2), (1.5, 33, 16), (1.5, 20, 26)),
    "basilar": ((0, -20, -42), (0, -17, -34), (0, -16, -26), (0, -17, -20)),  # pressed into the pons: no fluid before it
}


def draw_mimics(
    rng: np.random.Generator,
    placer: Placer,
    config: PhantomConfig,
    veins: Veins,
    warp: Warp,
    normal: np.ndarray,
    age_years: float = 70.0,
    calcifications: int = 0,
) -> list[Lesion]:
    """Mimics of all kinds; those without a free place are left out, so there may be none.

    normal: across the slices, (3,) in the head's frame. calcifications: so many more in white matter or cortex, drawn last, so
    that the other mimics are those that are drawn without. Veins are only marked: the head holds them already.
    """
    drawn = [
        *_calcifications(rng, placer, config),
        *_iron(rng, placer, config, age_years),
        *_cavernomas(rng, placer),
        *_air(rng, placer, config),
        *_flow_voids(rng, placer),
        *_veins(rng, placer, config, "mimic:vein", cross_sections(veins, warp, normal), VEINS),
        *_veins(rng, placer, config, "mimic:vein_branch", junctions(veins, warp), BRANCHES),
    ]
    more = [_odd_calcification(rng, placer, config) for _ in range(calcifications)]
    return drawn + [lesion for lesion in more if lesion]


def _calcifications(rng: np.random.Generator, placer: Placer, config: PhantomConfig) -> list[Lesion]:
    found = []
    for region, (site, share) in CALCIUM_SITES.items():
        for side in (1, -1) if site[0] else (1,):
            if rng.random() < share:
                found.append(_spot(rng, placer, config, "mimic:calcification", region, _near(rng, np.multiply(site, (side, 1, 1)))))
    if rng.random() < ODD_CALCIUM:
        found.append(_odd_calcification(rng, placer, config))
    return [lesion for lesion in found if lesion]


def _odd_calcification(rng: np.random.Generator, placer: Placer, config: PhantomConfig) -> Lesion | None:
    """A calcification where microbleeds lie, in white matter or cortex."""
    region = str(rng.choice(["subcortical_white", "cortex_junction"]))
    sites = rng.choice(placer.template.places[region], SITE_TRIES)
    return _spot(rng, placer, config, "mimic:calcification", region, sites)


def _iron(rng: np.random.Generator, placer: Placer, config: PhantomConfig, age_years: float) -> list[Lesion]:
    """A spot on each side, in one nucleus or two; the older, the more often."""
    young, old = IRON_YEARS
    share = float(np.clip((age_years - young) / (old - young), 0, 1))
    found = []
    for region in rng.choice(list(IRON_NUCLEI), 1 + (rng.random() < share / 2), replace=False, p=list(IRON_NUCLEI.values())):
        middle = np.array(next(n[1] for n in NUCLEI if n[0] == region)) + rng.normal(0, SITE_SPREAD_MM, 3)
        if rng.random() < share:
            for side in (1, -1):
                found.append(_spot(rng, placer, config, "mimic:iron", str(region), _near(rng, middle * (side, 1, 1))))
    return [lesion for lesion in found if lesion]


def _spot(
    rng: np.random.Generator, placer: Placer, config: PhantomConfig, label: str, region: str, sites_mm: np.ndarray
) -> Lesion | None:
    """A calcification or an iron spot at the first free one of sites (N, 3) in MNI mm."""
    low, high = {"mimic:calcification": CALCIUM_PPM, "mimic:iron": IRON_PPM}[label]
    chi = float(np.sign(low) * np.exp(rng.uniform(np.log(abs(low)), np.log(abs(high)))))
    diameter, seed = float(rng.uniform(*DIAMETER_MM)), int(rng.integers(2**31))
    head = placer.warp.to_head(sites_mm)
    number = placer.place(head, diameter)
    if number is None:
        return None
    return Lesion(label, region, _plain(head[number]), diameter, body_radius_mm(diameter, chi, config, label), chi, seed)


def _cavernomas(rng: np.random.Generator, placer: Placer) -> list[Lesion]:
    if rng.random() >= CAVERNOMA_SCANS:
        return []
    diameter, chi = float(rng.uniform(*CAVERNOMA_MM)), float(rng.uniform(*CAVERNOMA_PPM))
    region, seed = str(rng.choice(CAVERNOMA_REGIONS)), int(rng.integers(2**31))
    centre = placer.place_in(region, diameter, ANYWHERE)
    if centre is None:
        return []
    return [Lesion("mimic:cavernoma", region, centre, diameter, diameter / 2 / CAVERNOMA_SEEN, chi, seed)]


def _air(rng: np.random.Generator, placer: Placer, config: PhantomConfig) -> list[Lesion]:
    """Pockets just outside the brain, whose void reaches into it: what is seen is the cap of that ball inside the brain."""
    template = placer.template
    edge = np.argwhere(np.abs(template.brain_mm) < 1)
    edge_mm, outward = template.half.axis_ends()[0] + edge * template.half.spacing_mm, template.outward[(slice(None), *edge.T)].T
    found = []
    for _ in range(rng.choice(len(AIR_COUNT), p=AIR_COUNT)):
        region, side = str(rng.choice(list(AIR_SITES_MM))), rng.choice([1, -1])
        void, share, seed = float(rng.uniform(*AIR_VOID_MM)), float(rng.uniform(*AIR_DEPTH)), int(rng.integers(2**31))
        ball, depth = void / 2, share * void / 2
        near = np.flatnonzero(np.linalg.norm(edge_mm - np.multiply(AIR_SITES_MM[region], (side, 1, 1)), axis=1) < AIR_SITE_MM)
        near = rng.permutation(near)[:SITE_TRIES]
        surface, normal = _to_surface(placer, edge_mm[near], outward[near])
        seen = surface - normal * (0.4 * depth)  # centre of mass of the cap: 3/8 of the depth for half a ball
        diameter = float(np.cbrt(2 * depth**2 * (3 * ball - depth)))  # of the sphere as large as the cap
        number = placer.place(seen, diameter, ANYWHERE)
        if number is not None:
            body = normal[number] * (ball - 0.6 * depth)
            radius = body_radius_mm(void, AIR_PPM, config)
            centre = _plain(seen[number])
            found.append(Lesion("mimic:air_bone", region, centre, diameter, radius, AIR_PPM, seed, body_from_seen_mm=_plain(body)))
    return found


def _to_surface(placer: Placer, edge_mm: np.ndarray, outward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of the template near its brain's surface to points on it, head mm, and the unit vectors outwards there."""
    unit = outward / np.linalg.norm(outward, axis=1, keepdims=True)
    on = edge_mm - _depth(placer, edge_mm)[:, None] * unit
    head = placer.warp.to_head(on)
    away = placer.warp.to_head(on + 2 * unit) - head
    return head, away / np.linalg.norm(away, axis=1, keepdims=True)


def _flow_voids(rng: np.random.Generator, placer: Placer) -> list[Lesion]:
    """Short straight pieces of arteries whose blood gives no signal."""
    found = []
    for _ in range(rng.choice(len(FLOW_COUNT), p=FLOW_COUNT)):
        region = str(rng.choice(list(ARTERIES)))
        nodes = np.array(ARTERIES[region], float) * ((rng.choice([1, -1]), 1, 1) if region != "basilar" else (1, 1, 1))
        length, radius = float(rng.uniform(*FLOW_LENGTH_MM)), float(rng.uniform(*FLOW_RADIUS_MM))
        piece = rng.integers(0, len(nodes) - 1, SITE_TRIES)
        from_, to = nodes[piece], nodes[piece + 1]
        sites = from_ + rng.random((SITE_TRIES, 1)) * (to - from_) + rng.normal(0, 0.7, (SITE_TRIES, 3))
        head = placer.warp.to_head(sites)
        along = placer.warp.to_head(sites + (to - from_) / 10) - head
        diameter = float(np.cbrt(6 / np.pi * tube_volume_mm3(radius, length)))
        number = placer.place(head, diameter, ANYWHERE)
        if number is not None:
            along_mm = along[number] * length / np.linalg.norm(along[number])
            found.append(Lesion("mimic:flow_void", region, _plain(head[number]), diameter, radius, 0.0, along_mm=_plain(along_mm)))
    return found


def _veins(
    rng: np.random.Generator, placer: Placer, config: PhantomConfig, label: str, where: tuple[np.ndarray, np.ndarray], count: int
) -> list[Lesion]:
    """Up to `count` of the candidates (points in head mm (N, 3), radius (N,)) that are as wide as a microbleed, in the brain."""
    points, radius = where
    diameter = SEEN_PER_RADIUS * radius
    wide = np.flatnonzero((diameter >= config.smallest_cmb_mm) & (diameter <= DIAMETER_MM[1]))
    inside = wide[_depth(placer, placer.warp.to_template(points[wide])) < -VEIN_DEPTH_MM]
    found: list[Lesion] = []
    for n in rng.permutation(inside)[: 10 * count]:
        if len(found) < count and placer.place(points[n : n + 1], float(diameter[n]), ANYWHERE, VEIN_APART_MM) is not None:
            found.append(Lesion(label, "vein", _plain(points[n]), float(diameter[n]), 0.0, 0.0))
    return found


def _depth(placer: Placer, template_mm: np.ndarray) -> np.ndarray:
    """Signed distance (N,) of template points (N, 3) to the brain's surface in mm, negative inside."""
    return lookup(placer.template.brain_mm, placer.template.half, template_mm)


def _near(rng: np.random.Generator, middle_mm: np.ndarray) -> np.ndarray:
    """SITE_TRIES points (N, 3) around a place."""
    return middle_mm + rng.normal(0, SITE_SPREAD_MM, (SITE_TRIES, 3))


def _plain(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z
