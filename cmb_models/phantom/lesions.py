"""Microbleeds and what resembles them: drawn, placed, and added below the voxel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cmb_models.errors import InputError
from cmb_models.phantom.acquisition import cut_kspace
from cmb_models.phantom.config import PhantomConfig, phase_per_ppm
from cmb_models.phantom.field import dipole_field
from cmb_models.phantom.grid import Grid, apply_along, linear_matrix
from cmb_models.phantom.template import NUCLEI, Template
from cmb_models.phantom.warp import Warp

REGION_SHARE = {  # FACTS section 3
    "subcortical_white": 0.40,
    "cortex_junction": 0.33,
    "cerebellum": 0.08,
    "basal_ganglia": 0.08,
    "thalamus": 0.05,
    "brainstem": 0.04,
}
DIAMETER_MEDIAN_MM, DIAMETER_SIGMA = 2.7, 0.36  # lognormal, as seen: FACTS section 3, 957 real microbleeds
DIAMETER_RANGE_MM = (2.0, 10.0)  # the definition's; a fifth of those 957 is smaller, marked on finer voxels than 1x1x2 mm
CMB_PPM, CALCIUM_PPM, IRON_SPOT_PPM = (0.5, 4.0), (-0.2, -2.0), (0.2, 0.6)  # FACTS section 3; iron spots assumed
INNER_SIGNAL = {"cmb": 0.1, "mimic:calcification": 0.25, "mimic:iron": 0.7}  # at the echo, against the tissue around: assumed
MIMIC_RANGE_MM = (2.0, 5.0)  # diameter as seen, assumed
CALCIUM_MNI_MM = ((0, -28, 3), (23, -42, 8), (-23, -42, 8), (19, -4, -1), (-19, -4, -1))  # pineal, choroid plexus, pallidum
SEEN_OVER_BLOOM = 1.45  # full width at half depth in the SWI over the equator's bloom: measured on 86 simulated lesions at 1x1x2 mm
APART_MM = 8.0  # between any two centres; plus half of what the larger one's diameter exceeds 6 mm by
EDGE_MM = 8.0  # from the field of view's edge
SUBDIVISION = 4  # lesions are made on a grid this many times finer
TRIES = 400
ODD_CALCIUM = 0.3  # share of scans with a calcification in white matter or cortex: assumed, far rarer than at the usual places


@dataclass(frozen=True)
class Lesion:
    """centre_mm: (x, y, z) scanner mm. diameter_mm: as seen in the SWI. radius_mm: of the body that holds the susceptibility."""

    label: str
    region: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    radius_mm: float
    chi_ppm: float


def bloom_factor(chi_ppm: float, field_t: float, te_ms: float) -> float:
    """Dephased radius over true radius: (chi gamma B0 TE / 3 pi)^(1/3) at the equator, at least 1 (FACTS section 3)."""
    return max(1.0, (abs(chi_ppm) * phase_per_ppm(field_t, te_ms) / (3 * np.pi)) ** (1 / 3))


def body_radius_mm(diameter_mm: float, chi_ppm: float, field_t: float, te_ms: float) -> float:
    """Radius of the body that is seen at this diameter in the SWI."""
    return diameter_mm / 2 / SEEN_OVER_BLOOM / bloom_factor(chi_ppm, field_t, te_ms)


class Placer:
    """Finds free places: keeps what has been placed so far."""

    def __init__(
        self, rng: np.random.Generator, template: Template, warp: Warp, config: PhantomConfig, grid: Grid, veins: np.ndarray
    ):
        self._rng, self.template, self._warp, self._grid, self._veins = rng, template, warp, grid, veins
        half = np.array(config.fov_mm) / 2 - EDGE_MM
        self._low, self._high = config.fov_centre_mm - half, config.fov_centre_mm + half
        self._taken: list[tuple[np.ndarray, float]] = []  # centre, and how far others keep away

    def place(self, template_mm: np.ndarray, diameter_mm: float) -> tuple[float, float, float] | None:
        """Take the first free one of places (N, 3) in MNI mm; None when there is none."""
        head = self._warp.to_head(template_mm)
        apart = APART_MM + max(0.0, diameter_mm - 6.0) / 2
        inside = np.all((head > self._low) & (head < self._high), axis=1)
        for place in head[inside]:
            if any(np.linalg.norm(other - place) < max(apart, theirs) for other, theirs in self._taken):
                continue
            i, j, k = np.rint(self._grid.index(place)).astype(int)
            if self._veins[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2].max() > 0.2:  # would be lost in the vein
                continue
            self._taken.append((place, apart))
            return tuple(float(v) for v in place)
        return None

    def place_in(self, region: str, diameter_mm: float) -> tuple[float, float, float] | None:
        places = self.template.places[region]
        chosen = places[self._rng.integers(0, len(places), TRIES)] + self._rng.uniform(-0.5, 0.5, (TRIES, 3))
        return self.place(chosen, diameter_mm)


def draw_cmbs(rng: np.random.Generator, placer: Placer, count: int, config: PhantomConfig, te_ms: float) -> list[Lesion]:
    """Exactly `count` microbleeds, or InputError when they do not fit."""
    found = []
    names, share = list(REGION_SHARE), np.array(list(REGION_SHARE.values()))
    for _ in range(count):
        diameter = _draw_diameter_mm(rng)
        chi = float(np.exp(rng.uniform(*np.log(CMB_PPM))))
        radius = body_radius_mm(diameter, chi, config.field_t, te_ms)
        for region in rng.choice(names, len(names), replace=False, p=share / share.sum()):  # a crop may lack the first
            centre = placer.place_in(str(region), diameter)
            if centre is not None:
                found.append(Lesion("cmb", str(region), centre, diameter, radius, chi))
                break
    if len(found) < count:
        raise InputError(
            "phantom", f"room for {count} microbleeds in one scan", f"room for {len(found)}", "ask for fewer, or more scans"
        )
    return found


def _draw_diameter_mm(rng: np.random.Generator) -> float:
    """Lognormal within the definition's range; drawn again rather than cut, which would pile them up at its ends."""
    while True:
        diameter = float(rng.lognormal(np.log(DIAMETER_MEDIAN_MM), DIAMETER_SIGMA))
        if DIAMETER_RANGE_MM[0] <= diameter <= DIAMETER_RANGE_MM[1]:
            return diameter


def draw_mimics(rng: np.random.Generator, placer: Placer, config: PhantomConfig, te_ms: float) -> list[Lesion]:
    """A few calcifications, and in half the scans iron spots on both sides; those without a free place are left out."""
    wanted = []
    for place in rng.permutation(CALCIUM_MNI_MM)[: rng.integers(0, 3)]:
        wanted.append(("mimic:calcification", "usual", place + rng.normal(0, 1.5, 3), CALCIUM_PPM))
    if rng.random() < ODD_CALCIUM:
        region = str(rng.choice(["subcortical_white", "cortex_junction"]))
        wanted.append(("mimic:calcification", region, rng.choice(placer.template.places[region]), CALCIUM_PPM))
    if rng.random() < 0.5:
        name, middle = NUCLEI[rng.integers(0, 2)][:2]
        spot = middle + rng.normal(0, 1.5, 3)
        wanted += [("mimic:iron", name, spot * (side, 1, 1) + rng.normal(0, 0.7, 3), IRON_SPOT_PPM) for side in (1, -1)]
    found = []
    for label, region, place, (low, high) in wanted:
        diameter = float(rng.uniform(*MIMIC_RANGE_MM))
        chi = float(np.sign(low) * np.exp(rng.uniform(np.log(abs(low)), np.log(abs(high)))))
        centre = placer.place(np.reshape(place, (1, 3)), diameter)
        if centre is not None:
            radius = body_radius_mm(diameter, chi, config.field_t, te_ms)
            found.append(Lesion(label, region, centre, diameter, radius, chi))
    return found


def add_lesion(rng: np.random.Generator, signal: np.ndarray, grid: Grid, lesion: Lesion, phase_per_ppm_: float) -> None:
    """Add a lesion to the complex signal (I, J, K) on `grid`, in place.

    In a box on a finer grid: the signal around (interpolated) loses the lesion's share, gains its dipole phase, and the CHANGE
    is cut down in k-space to the grid. Fields add up, so the rest of the head need not be computed again.
    """
    half = 8 if lesion.diameter_mm < 5 else 14  # voxels of about 1 mm: the change has died away at the edge
    index = grid.index(np.array([lesion.centre_mm]))[0]
    low = np.rint(index).astype(int) - half
    box = tuple(slice(n, n + 2 * half) for n in low)
    around = signal[box]
    at = np.arange(2 * half * SUBDIVISION) / SUBDIVISION
    for axis in range(3):
        around = apply_along(around, linear_matrix(at, 2 * half), axis - 3)
    spacing = tuple(s / SUBDIVISION for s in grid.spacing_mm)
    away = [(at + n - c) * s for n, c, s in zip(low, index, grid.spacing_mm, strict=True)]
    share = _body(rng, away, lesion.radius_mm, min(spacing))
    phase = dipole_field(share * np.float32(lesion.chi_ppm), spacing) * np.float32(phase_per_ppm_)
    change = around * ((1 - share * np.float32(1 - INNER_SIGNAL[lesion.label])) * np.exp(1j * phase) - 1)
    for axis in range(3):  # fade out towards the edge of the box
        fade = np.clip((half - np.abs(at - half)) / 2, 0, 1).astype(np.float32)
        change *= np.moveaxis(fade[:, None, None], 0, axis)
    signal[box] += cut_kspace(change.astype(np.complex64), (2 * half,) * 3)


def _body(rng: np.random.Generator, away_mm: list[np.ndarray], radius_mm: float, step_mm: float) -> np.ndarray:
    """Share (I, J, K) float32 of each fine voxel inside a dented ellipsoid of this mean radius; sphericity about .85."""
    axes = np.exp(rng.normal(0, 0.16, 3))
    matrix = Rotation.from_rotvec(rng.normal(0, 2, 3)).as_matrix() / (axes / np.cbrt(axes.prod()))[:, None]
    x, y, z = (a.astype(np.float32) for a in away_mm)
    u, v, w = ((np.float32(r[0]) * x)[:, None, None] + (np.float32(r[1]) * y)[:, None] + np.float32(r[2]) * z for r in matrix)
    distance = np.sqrt(u**2 + v**2 + w**2)
    a, b, c = rng.uniform(0, 2 * np.pi, 3)
    pull = 2.5 / radius_mm  # dents about a radius wide
    dents = 1 + 0.1 * (np.sin(pull * u + a) + np.sin(pull * v + b) + np.sin(pull * w + c))
    return np.clip((radius_mm * dents - distance) / step_mm + 0.5, 0, 1).astype(np.float32)
