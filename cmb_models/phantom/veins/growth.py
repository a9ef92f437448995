"""Where a head's veins grow: cortical, sulcal, deep, medullary and cerebellar trees on the sinuses."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cmb_models.phantom.head.template import Template
from cmb_models.phantom.veins.forest import CEREBELLAR, CORTICAL, MEDULLARY, SULCAL, Forest, Veins
from cmb_models.phantom.veins.paths import (
    STEP_MM,
    TRUNKS,
    Manner,
    below_tentorium,
    in_steps,
    route,
    smooth_line,
    steps_within,
    straight,
    trunk_points,
    unit,
    white_share,
)

# How many there are in a head, both sides together. Bridging veins 8 to 12 a side; the rest assumed, tuned by eye.
BRIDGING, SMALL_BRIDGING, BASAL, CALLOSAL = (16, 25), (44, 62), (30, 45), (8, 15)
BRANCHES, TWIGS, SULCAL_VEINS = (200, 280), (180, 260), (330, 450)  # sulcal ones twice: the second also on the first
MEDULLARY_VEINS, BRUSHES, CEREBELLAR_VEINS, FOLIAL = (100, 150), (60, 120), (40, 60), (90, 140)
TIP_MM, SULCAL_TIP_MM = (0.16, 0.22), (0.2, 0.3)  # radius where veins become too thin to be seen, or split up: assumed
WHITE = 0.6  # share of white matter below which a medullary vein ends: assumed

LARGE = Manner(knots=40, bend=0.03, pull=2.0, depth_mm=(-5.0, 0.5))
SURFACE = Manner(knots=24, bend=0.05, pull=3.0, depth_mm=(-9.0, -1.0))
INTO_SULCI = Manner(knots=20, bend=0.06, pull=5.0)


def draw_veins(rng: np.random.Generator, template: Template) -> Veins:
    """The veins of one head, in template mm, whatever grid it will be seen on."""
    forest = Forest()
    named = _add_trunks(rng, template, forest)
    _add_cortical(rng, template, forest, named)
    _add_medullary(rng, template, forest, named)
    _add_cerebellar(rng, template, forest, named)
    return forest.veins(rng)


def _add_trunks(rng: np.random.Generator, template: Template, forest: Forest) -> dict[str, np.ndarray]:
    """Named veins; returns the points of each, both sides together."""
    dominant = int(rng.choice([1, -1], p=[0.7, 0.3]))  # side the sagittal sinus drains to, mostly the right: assumed share
    where: dict[tuple[str, int], np.ndarray] = {}
    for trunk in TRUNKS:
        for side in (1, -1) if trunk.paired else (1,):
            if rng.random() >= trunk.share:
                continue
            parent_side = {"same": side, "dominant": dominant, "other": -dominant}[trunk.parent_side]
            parent = where.get((trunk.parent, parent_side), where.get((trunk.parent, 1)))
            points = trunk_points(rng, template, trunk, side)
            on = -1
            if parent is not None:
                on = int(parent[np.argmin(np.sum((forest.points_mm[parent] - points[0]) ** 2, axis=1))])
                points[0] = forest.points_mm[on]
            line = smooth_line(points)
            root, tip = np.array(trunk.radius_mm) * rng.uniform(0.85, 1.15)
            before = len(forest.points_mm)
            forest.add(line[:, None], np.array([len(line) - 1]), np.array([on]), np.array([root]), np.array([tip]), trunk.kind)
            where[trunk.name, side] = np.arange(before, len(forest.points_mm))
    names = {name for name, _ in where}
    return {n: np.concatenate([points for (name, _), points in where.items() if name == n]) for n in names}


def _reach(rng, template: Template, forest: Forest, on: np.ndarray, ends: np.ndarray, radius_mm: np.ndarray, manner: Manner,
           kind: int) -> np.ndarray:  # fmt: skip
    """Veins from the points `on` (N,) to `ends` (N, 3), radius_mm (N,) at the parent; returns their own points."""
    path, steps = in_steps(route(rng, template, forest.points_mm[on], ends, manner))
    tip = np.minimum(rng.uniform(*(SULCAL_TIP_MM if kind == SULCAL else TIP_MM), len(on)), 0.8 * radius_mm)
    before = len(forest.points_mm)
    forest.add(path, steps, on, radius_mm, tip, kind)
    return np.arange(before, len(forest.points_mm))


def _branch(rng, template: Template, forest: Forest, among: np.ndarray, places: np.ndarray, count: tuple[int, int], radius_mm,
            manner: Manner, kind: int, reach_mm: float = 45.0) -> np.ndarray:  # fmt: skip
    """Veins to some of the places (N, 3) within reach, from the nearest of the points `among`, or rather from nearer the heart."""
    number = int(rng.integers(*count))
    ends = places[rng.integers(0, len(places), 4 * number)] + rng.uniform(-1, 1, (4 * number, 3))
    away, nearest = cKDTree(forest.points_mm[among]).query(ends)
    chosen = np.flatnonzero((away > 4) & (away < reach_mm))[:number]  # what has a vein already needs no other
    on, ends = among[nearest[chosen]], ends[chosen]
    hops = (away[chosen] * rng.uniform(0.2, 0.8, len(chosen)) / STEP_MM).astype(np.intp)  # so that branches part at acute angles
    for n in range(hops.max()):
        on = np.where((n < hops) & (forest.previous[on] >= 0), forest.previous[on], on)
    radius = rng.uniform(*radius_mm, len(on)) if kind == SULCAL else _thinner(rng, forest, on, *radius_mm)
    return _reach(rng, template, forest, on, ends, radius, manner, kind)


def _thinner(rng: np.random.Generator, forest: Forest, on: np.ndarray, low: float, high: float) -> np.ndarray:
    """Radius (N,): a drawn one, at most 0.85 of the parent's."""
    return np.minimum(rng.uniform(low, high, len(on)), 0.85 * forest.nominal_mm[on])


def _along(rng: np.random.Generator, points: np.ndarray, count: tuple[int, int]) -> np.ndarray:
    """`count` of the points, evenly but for chance."""
    number = int(rng.integers(*count))
    return points[((np.arange(number) + rng.random(number)) / number * len(points)).astype(np.intp)]


def _nearest(places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return places[cKDTree(places).query(wanted)[1]]


def _add_cortical(rng: np.random.Generator, template: Template, forest: Forest, named: dict[str, np.ndarray]) -> None:
    """Veins of the surface from the sinuses and the named ones, branching twice, and those that dive into the sulci."""
    surface, fluid = _cerebral_places(template)
    grown = [named[n] for n in ("sylvian", "labbe", "trolard") if n in named]
    for number, radius, low, high in ((BRIDGING, (0.6, 1.0), -5, 45), (SMALL_BRIDGING, (0.35, 0.6), 20, 60)):
        on = _along(rng, named["sagittal"], number)
        side = np.resize([1.0, -1.0], len(on))  # by turns, so that both sides get theirs
        wanted = np.stack([rng.uniform(20, 65, len(on)), rng.normal(-6, 8, len(on)), rng.uniform(low, high, len(on))], 1)
        wanted = wanted * np.stack([side, *np.ones((2, len(on)))], 1) + forest.points_mm[on] * [0, 0.9, 0]
        ends = _nearest(surface, wanted)
        grown.append(_reach(rng, template, forest, on, ends, rng.uniform(*radius, len(on)), LARGE, CORTICAL))
    low_down = surface[surface[:, 2] < 5]
    roots = np.concatenate([named["transverse"], named["basal"]])
    grown.append(_branch(rng, template, forest, roots, low_down, BASAL, (0.35, 0.7), LARGE, CORTICAL))
    trunks = np.concatenate(grown)
    branches = _branch(rng, template, forest, trunks, surface, BRANCHES, (0.3, 0.5), SURFACE, CORTICAL)
    both = np.concatenate([trunks, branches])
    twigs = _branch(rng, template, forest, both, surface, TWIGS, (0.22, 0.35), SURFACE, CORTICAL)
    every = np.concatenate([both, twigs, named["sagittal"], named["insular"]])
    for _ in range(2):
        more = _branch(rng, template, forest, every, fluid, SULCAL_VEINS, (0.3, 0.48), INTO_SULCI, SULCAL, reach_mm=22.0)
        every = np.concatenate([every, more])
    medial = fluid[(np.abs(fluid[:, 0]) < 10) & (fluid[:, 2] > 25)]
    _branch(rng, template, forest, named["lower_sagittal"], medial, CALLOSAL, (0.25, 0.4), INTO_SULCI, SULCAL)


def _cerebral_places(template: Template) -> tuple[np.ndarray, np.ndarray]:
    """MNI mm (N, 3) of the cerebrum's surface, and of the fluid in its sulci."""
    half = template.half
    tissue = (template.grey[::2, ::2, ::2].astype(np.float32) + template.white[::2, ::2, ::2]) / 255
    surface = (template.brain_mm > -5) & (template.brain_mm < -1)
    sulci = (template.brain_mm < -4) & (tissue < 0.8)
    x, y, z = (half.axis_mm(a) for a in range(3))
    ventricles = ((x / 34) ** 2)[:, None, None] + (((y + 8) / 58) ** 2)[:, None] + ((z - 6) / 28) ** 2 < 1  # by eye
    places = [np.argwhere(m) * half.spacing_mm + half.origin_mm for m in (surface, sulci & ~ventricles)]
    on_surface, fluid = (p[~below_tentorium(p) & (p[:, 2] > -60)] for p in places)
    x, y, z = np.abs(fluid[:, 0]), fluid[:, 1], fluid[:, 2]
    wide = (x < 4) | (x > 28) & (x < 46) & (y > -32) & (y < 26) & (z > -16) & (
        z < 18
    )  # the fissures: much fluid, not so many veins
    return on_surface, np.concatenate([fluid[~wide], fluid[wide][::5]])


def _add_medullary(rng: np.random.Generator, template: Template, forest: Forest, named: dict[str, np.ndarray]) -> None:
    """Nearly straight from the ventricle's wall through the white matter, outwards and somewhat up, then like brushes."""
    wall = np.concatenate([named[n] for n in ("caudate", "lateral", "atrial", "septal", "thalamostriate")])
    wall = wall[np.abs(forest.points_mm[wall, 0]) > 11]  # where the ventricle meets the white matter
    on = _along(rng, wall, MEDULLARY_VEINS)
    n, at = len(on), forest.points_mm[on]
    fan = np.stack(
        [np.sign(at[:, 0]) * rng.uniform(0.6, 1.2, n), (at[:, 1] + 12) / 70 + rng.normal(0, 0.2, n), rng.uniform(0, 0.8, n)], 1
    )
    main = _fan(rng, template, forest, on, fan, (14, 40), rng.uniform(0.26, 0.38, n))
    on = rng.choice(main, int(rng.integers(*BRUSHES)), replace=False)
    aside = unit(forest.along[on]) + 0.35 * rng.standard_normal((len(on), 3))
    _fan(rng, template, forest, on, aside, (8, 24), _thinner(rng, forest, on, 0.16, 0.22))


def _fan(rng, template: Template, forest: Forest, on: np.ndarray, heading: np.ndarray, length: tuple[int, int],
         radius_mm: np.ndarray) -> np.ndarray:  # fmt: skip
    """Straight veins from the points `on` (N,) until the white matter ends; returns their own points. length: range, in steps."""
    steps = rng.integers(*length, len(on))
    path = straight(rng, forest.points_mm[on], heading, int(steps.max()))
    allowed = white_share(template, path) > WHITE
    allowed[:6] = True  # leave the ventricle's wall first
    tip = np.minimum(rng.uniform(*TIP_MM, len(on)), 0.8 * radius_mm)
    before = len(forest.points_mm)
    forest.add(path, steps_within(allowed, steps), on, radius_mm, tip, MEDULLARY)
    return np.arange(before, len(forest.points_mm))


def _add_cerebellar(rng: np.random.Generator, template: Template, forest: Forest, named: dict[str, np.ndarray]) -> None:
    """Of the hemispheres and the vermis, from the transverse and the straight sinus, between the folia."""
    places = template.places["cerebellum"]
    roots = np.concatenate([named[n] for n in ("transverse", "upper_vermian", "lower_vermian", "petrosal", "straight")])
    veins = _branch(rng, template, forest, roots, places, CEREBELLAR_VEINS, (0.25, 0.5), INTO_SULCI, CEREBELLAR)
    _branch(rng, template, forest, veins, places, FOLIAL, (0.18, 0.35), INTO_SULCI, CEREBELLAR)
