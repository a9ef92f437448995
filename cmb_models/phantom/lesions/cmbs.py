"""Microbleeds: how many, how large, of what susceptibility, and where."""

from __future__ import annotations

import numpy as np

from cmb_models.errors import InputError
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.lesions.bloom import body_radius_mm
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.lesions.placing import Placer, Shows

REGION_SHARE = {  # docs/explanation/phantom.md
    "subcortical_white": 0.40,
    "cortex_junction": 0.33,
    "cerebellum": 0.08,
    "basal_ganglia": 0.08,
    "thalamus": 0.05,
    "brainstem": 0.04,
}
DIAMETER_MEDIAN_MM, DIAMETER_SIGMA = 2.7, 0.36  # lognormal, as seen: docs/explanation/phantom.md, 957 real microbleeds
LARGEST_MM = 10.0  # the definition's: docs/explanation/phantom.md
CHI_PPM = (0.5, 4.0)  # docs/explanation/phantom.md
# By generation: susceptibility, signal of the body against the tissue around, and factor on the body's radius. Those of the second
# were chosen so that darkness and width agree with 30 real microbleeds (docs/explanation/phantom.md).
BODY = {1: (CHI_PPM, (0.1, 0.1), 1.0), 2: ((0.02, 0.5), (0.15, 0.75), 1.1)}
CLUSTERED_SCANS, IN_CLUSTER = 0.3, 0.4  # share of scans with clusters, and of their microbleeds that join an earlier one: assumed
CLUSTER_MM = (10.0, 20.0)  # to that earlier one: assumed
AT_EDGE = 0.25  # share of the cortical ones that touch the brain's edge: assumed
BESIDE_VEIN = 0.12  # share of the others that lie next to a vein: assumed
BESIDE_MM = (1.0, 2.5)  # from there to the vein: touching, not buried (assumed)
BESIDE_LARGEST_MM = 4.0  # larger ones would bury it


def draw_cmbs(
    rng: np.random.Generator, placer: Placer, count: int, config: PhantomConfig, shows: Shows | None = None
) -> list[Lesion]:
    """Exactly `count` microbleeds, seen at their diameter by this acquisition; [] for 0, InputError when they do not fit.

    shows: where one can be seen; None for everywhere.
    """
    found: list[Lesion] = []
    clustered = rng.random() < CLUSTERED_SCANS
    names, share = list(REGION_SHARE), np.array(list(REGION_SHARE.values()))
    for _ in range(count):
        diameter = draw_diameter_mm(rng, config.smallest_cmb_mm)
        chi = draw_chi_ppm(rng, config.generation)
        seed = int(rng.integers(2**31))
        for region in rng.choice(names, len(names), replace=False, p=share / share.sum()):  # a crop may lack the first
            place = _place(rng, placer, found if clustered else [], str(region), diameter, shows)
            if place is not None:
                radius, signal = body_of(diameter, chi, seed, config)
                found.append(Lesion("cmb", str(region), place[0], diameter, radius, chi, seed, place[1], inner_signal=signal))
                break
        else:
            wanted, got = f"room for {count} microbleeds in one scan", f"room for {len(found)}"
            raise InputError("phantom-no-room", "phantom", wanted, got, "ask for fewer, or more scans")
    return found


def draw_chi_ppm(rng: np.random.Generator, generation: int) -> float:
    """Susceptibility of a microbleed, log-uniform in the generation's range."""
    return float(np.exp(rng.uniform(*np.log(BODY[generation][0]))))


def body_of(diameter_mm: float, chi_ppm: float, seed: int, config: PhantomConfig) -> tuple[float, float | None]:
    """Radius in mm of the body that is seen at this diameter, and its inner signal as in Lesion; seed: of the lesion."""
    _, inner, factor = BODY[config.generation]
    signal = None if config.generation == 1 else float(np.random.default_rng([seed, 1]).uniform(*inner))
    return factor * body_radius_mm(diameter_mm, chi_ppm, config), signal


def draw_diameter_mm(rng: np.random.Generator, smallest_mm: float) -> float:
    """Lognormal from smallest_mm to LARGEST_MM; drawn again rather than cut, which would pile them up at the ends."""
    while True:
        diameter = float(rng.lognormal(np.log(DIAMETER_MEDIAN_MM), DIAMETER_SIGMA))
        if smallest_mm <= diameter <= LARGEST_MM:
            return diameter


def _place(
    rng: np.random.Generator, placer: Placer, cluster: list[Lesion], region: str, diameter_mm: float, shows: Shows | None
) -> tuple[tuple[float, float, float], str] | None:
    """A place, head mm, and its kind as Lesion.placement names it; where the kind that was drawn has no room, any in the region."""
    anchors = [lesion for lesion in cluster if lesion.region == region]
    if anchors and rng.random() < IN_CLUSTER:
        anchor = anchors[rng.integers(len(anchors))].centre_mm
        placement, centre = "cluster", placer.place_in(region, diameter_mm, around=(np.array(anchor), *CLUSTER_MM), shows=shows)
    elif region == "cortex_junction" and rng.random() < AT_EDGE:
        placement, centre = "edge", placer.place_in("cortex_edge", diameter_mm, shows=shows)
    elif rng.random() < BESIDE_VEIN and diameter_mm <= BESIDE_LARGEST_MM:
        touching = (max(BESIDE_MM[0], diameter_mm / 2 - 0.25), min(BESIDE_MM[1], diameter_mm / 2 + 0.6))
        placement, centre = "beside_vein", placer.place_in(region, diameter_mm, vein_mm=touching, shows=shows)
    else:
        placement, centre = "", None
    if centre is None:
        placement, centre = "", placer.place_in(region, diameter_mm, shows=shows)
    return None if centre is None else (centre, placement)
