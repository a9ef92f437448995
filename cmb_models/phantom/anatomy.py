"""One head on a grid: what each voxel signals at the echo, and its susceptibility."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from cmb_models.phantom.grid import Grid, resample, smooth_noise
from cmb_models.phantom.template import NUCLEI, Template
from cmb_models.phantom.warp import Warp

T2STAR_MS = {"grey": 66.0, "white": 53.0, "fluid": 500.0}  # 3 T: Peters 2007, 10.1016/j.mri.2007.02.014; fluid: long
WEIGHT = {"grey": 0.84, "white": 0.72, "fluid": 0.82}  # proton density x T1 weighting of a flip angle of 15 degrees: assumed
CHI_PPM = {"grey": 0.02, "white": -0.03, "fluid": 0.019}  # FACTS section 3
IRON_PPM = {  # FACTS section 3; the red nucleus, not listed there, between nigra and dentate
    "globus_pallidus": 0.131,
    "putamen": 0.038,
    "caudate": 0.044,
    "substantia_nigra": 0.111,
    "red_nucleus": 0.12,
    "dentate": 0.152,
}
R2STAR_PER_S_PPM = 120.0  # iron's own relaxation: takes globus pallidus to 35 /s at 3 T (Langkammer 2010, 10.1148/radiol.10100495)
BONE_PPM, FAT_PPM, AIR_PPM = -2.1, 0.6, 9.4  # against water: Schenck 1996, 10.1118/1.597854
BONE_SIGNAL, FAT_SIGNAL = 0.05, 0.85  # at the echo: bone has decayed, scalp fat is bright
OUTSIDE_STEP_MM = 3.0  # skull, scalp and air are smooth shapes


@dataclass(frozen=True)
class Head:
    """signal: (I, J, K) float32 magnitude at the echo without field effects, white matter about 0.5. chi_ppm: the same shape.

    brain_mm: signed distance to the brain's surface, negative inside. drawn: what was drawn, by name.
    """

    signal: np.ndarray
    chi_ppm: np.ndarray
    brain_mm: np.ndarray
    drawn: dict[str, float]


def build_head(rng: np.random.Generator, template: Template, warp: Warp, grid: Grid, te_ms: float) -> Head:
    """Warp the template to a grid and give every tissue its drawn contrast."""
    drawn = {f"weight_{t}": WEIGHT[t] * float(rng.normal(1, 0.05)) for t in WEIGHT}
    drawn |= {f"iron_ppm_{n}": c * float(np.clip(rng.normal(1, 0.25), 0.3, 2)) for n, c in IRON_PPM.items()}
    drawn |= {"skull_mm": float(rng.uniform(4, 7)), "scalp_mm": float(rng.uniform(4, 7))}
    signal, chi, brain_mm = _outside(rng, template, warp, grid, drawn)
    _fill_brain(template, warp.template_coordinates(grid), np.flatnonzero(brain_mm < 1.5), signal, chi, drawn, te_ms)
    signal *= 1 + np.float32(0.02) * smooth_noise(rng, grid, 3.0)  # tissue is not uniform
    return Head(signal, chi, brain_mm, drawn)


def _outside(rng, template: Template, warp: Warp, grid: Grid, drawn: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skull, scalp, the filling below the brain, air; signal, chi and brain_mm on `grid`."""
    coarse = grid.coarse(OUTSIDE_STEP_MM)
    at = template.half.index(warp.template_coordinates(coarse).reshape(3, -1).T).T
    maps = np.stack([_sample(m, at).reshape(coarse.shape) for m in (template.brain_mm, template.head_mm, template.air)])
    brain_mm, head_mm, air = resample(maps, coarse, grid)
    bone_end = drawn["skull_mm"] + 1.5
    skin = bone_end + drawn["scalp_mm"]
    scalp = np.clip(head_mm - bone_end + 0.5, 0, 1)
    filling = np.clip(-head_mm + 0.5, 0, 1) * np.clip(brain_mm - drawn["skull_mm"] + 0.5, 0, 1)  # face, orbits, neck: a mixture
    mixture = np.clip(0.3 + 0.22 * smooth_noise(rng, grid, 5.0), 0.04, 0.8)
    bone = 1 - np.clip(scalp + filling, 0, 1)
    air = np.maximum(air, np.clip(head_mm - skin + 0.5, 0, 1))
    signal = (bone * BONE_SIGNAL + scalp * FAT_SIGNAL + filling * mixture) * (1 - air)
    chi = (bone * BONE_PPM + scalp * FAT_PPM) * (1 - air) + air * AIR_PPM
    return signal.astype(np.float32), chi.astype(np.float32), brain_mm


def _fill_brain(template, coordinates, where, signal, chi, drawn, te_ms) -> None:
    """Write grey, white, fluid and iron into the flat voxels `where` of signal and chi."""
    at = template.full.index(coordinates.reshape(3, -1)[:, where].T).T
    grey, white, iron = (_sample(m, at) * np.float32(1 / 255) for m in (template.grey, template.white, template.iron))
    fluid = np.clip(1 - grey - white, 0, 1)
    total = grey**2 + white**2 + fluid**2 + 1e-6  # squares sharpen the average brain's blurred borders
    parts = {"grey": grey**2 / total, "white": white**2 / total, "fluid": fluid**2 / total}
    whole = sum(parts[t] * np.float32(drawn[f"weight_{t}"] * np.exp(-te_ms / T2STAR_MS[t])) for t in parts)
    chi_brain = sum(parts[t] * np.float32(CHI_PPM[t]) for t in parts)
    nearest = tuple(np.clip(np.rint(at), 0, np.array(template.full.shape)[:, None] - 1).astype(np.intp))
    table = np.array([0.0, *(drawn[f"iron_ppm_{n[0]}"] for n in NUCLEI)], np.float32)
    added = iron * table[template.nucleus[nearest]]
    flat_signal, flat_chi = signal.reshape(-1), chi.reshape(-1)
    flat_signal[where] = whole * np.exp(-added * np.float32(R2STAR_PER_S_PPM * te_ms * 1e-3))
    flat_chi[where] = chi_brain + added


def _sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return map_coordinates(values, at, order=1, mode="nearest", output=np.float32)
