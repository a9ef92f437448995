"""One head on a grid: what each voxel signals at the echo, and its susceptibility."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.grid import Grid, resample, smooth_noise
from cmb_models.phantom.head.contrast import nucleus_t2star_ms, signal, t2star_ms
from cmb_models.phantom.head.template import NUCLEI, Template, look_up
from cmb_models.phantom.head.traits import IRON_PPM, Traits, WhiteMatterLesion
from cmb_models.phantom.head.warp import ToTemplate

CHI_PPM = {"grey": 0.02, "white": -0.03, "fluid": 0.019}  # docs/explanation/phantom.md
BONE_PPM, FAT_PPM = (
    -2.1,
    0.6,
)  # against water: Hopkins and Wehrli 1997 (Magn Reson Med 37:494) found -2.3; fat assumed
AIR_PPM = 9.4  # against water: Schenck 1996, 10.1118/1.597854
BONE_SIGNAL, FAT_SIGNAL = 0.05, 0.85  # at the echo: bone has decayed, scalp fat is bright (assumed)
MIXTURE, MIXTURE_SPREAD, MIXTURE_MM = 0.3, 0.22, 5.0  # signal of face, orbits and neck, and of their parts: assumed
TEXTURE, TEXTURE_MM = 0.02, 3.0  # tissue is not uniform: assumed
COARSE_MM = 3.0  # skull, scalp, air and the warp are smooth: evaluated this far apart, linear between
RIM_MM = 1.5  # the brain's maps are read this far beyond its surface; skull begins there
SLAB_VOXELS = 2**18  # worked on at once: what stays in a processor's cache
LESION_STEP = 0.25 / 255  # brightness of white-matter lesions per stored number


@dataclass(frozen=True)
class Head:
    """signal: (I, J, K) float32 magnitude at the echo without field effects, white matter about WHITE_SIGNAL (contrast).

    chi_ppm: susceptibility, the same shape. brain_mm: signed distance to the brain's surface, negative inside.
    """

    signal: np.ndarray
    chi_ppm: np.ndarray
    brain_mm: np.ndarray


@dataclass(frozen=True)
class _Tissue:
    """What a subject's tissues are at one field and echo. signal: by tissue. widening: of the sulci.

    decay, ppm: by nucleus, 0 for none: the exponent of its loss beyond grey matter's, and its susceptibility. maps: the template's
    tissue maps with the subject's white-matter lesions.
    """

    signal: dict[str, float]
    decay: np.ndarray
    ppm: np.ndarray
    widening: float
    maps: np.ndarray


def build_head(traits: Traits, template: Template, warp: ToTemplate, grid: Grid, config: PhantomConfig) -> Head:
    """The subject on a grid. warp: anything that gives the template_coordinates of a grid."""
    coarse = grid.coarse(COARSE_MM)
    mm = warp.template_coordinates(coarse)
    at = template.half.index(mm.reshape(3, -1).T).T
    maps = [
        map_coordinates(m, at, order=1, mode="nearest", output=np.float32)
        for m in (template.brain_mm, template.head_mm, template.air)
    ]
    smooth = np.concatenate([np.stack(maps).reshape(3, *coarse.shape), mm])
    tissue = _tissue(traits, template, config)
    head = Head(*(np.empty(grid.shape, np.float32) for _ in range(3)))
    mixture = smooth_noise(np.random.default_rng([traits.texture_seed, 0]), grid, MIXTURE_MM)
    for rows, slab in _slabs(grid):
        part = Head(head.signal[rows], head.chi_ppm[rows], head.brain_mm[rows])
        part.brain_mm[:], head_mm, air = resample(smooth[:3], coarse, slab)
        _fill_outside(traits, part, head_mm, air, mixture[rows])
        _fill_brain(tissue, template, smooth[3:], coarse, slab, part)
    head.signal[:] *= 1 + np.float32(TEXTURE) * smooth_noise(np.random.default_rng([traits.texture_seed, 1]), grid, TEXTURE_MM)
    return head


def lesion_maps(template: Template, lesions: tuple[WhiteMatterLesion, ...]) -> np.ndarray:
    """The template's tissue maps (I, J, K, 4) with white-matter lesions as the last, uint8 in LESION_STEP; none in nuclei."""
    maps = template.tissue.copy()
    for lesion in lesions:
        centre, half = np.array(lesion.centre_mm), np.array(lesion.half_axes_mm)
        low, high = (np.rint(template.full.index(centre + s * (half * 1.3 + 1))).astype(int) for s in (-1, 1))
        box = tuple(slice(max(a, 0), max(b + 1, 0)) for a, b in zip(low, high, strict=True))
        x, y, z = (((template.full.axis_mm(a)[box[a]] - centre[a]) / half[a]) ** 2 for a in range(3))
        depth = np.clip((1.2 - np.sqrt(x[:, None, None] + y[:, None] + z)) / 0.4, 0, 1)  # a soft edge about the half axes
        depth[template.nucleus[box] > 0] = 0
        stored = maps[..., 3][box]
        np.maximum(stored, (depth * (lesion.brightness / LESION_STEP)).astype(np.uint8), out=stored)
    return maps


def _tissue(traits: Traits, template: Template, config: PhantomConfig) -> _Tissue:
    own = {t: traits.weight[t] * signal(t, config) for t in traits.weight}
    te, field_t = config.te_ms, config.field_t
    extra = {n: te / nucleus_t2star_ms(n, traits.iron_ppm[n], field_t) - te / t2star_ms("grey", field_t) for n in IRON_PPM}
    decay = np.array([0.0, *(extra[n[0]] for n in NUCLEI)], np.float32)
    ppm = np.array([0.0, *(traits.iron_ppm[n[0]] for n in NUCLEI)], np.float32)
    widening = 0.0 if template.own_sulci else traits.sulcal_widening
    return _Tissue(own, decay, ppm, widening, lesion_maps(template, traits.white_matter_lesions))


def _slabs(grid: Grid) -> Iterator[tuple[slice, Grid]]:
    """A grid cut along its first axis into parts of about SLAB_VOXELS: their rows and their own grids."""
    step = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for first in range(0, grid.shape[0], step):
        rows = slice(first, min(first + step, grid.shape[0]))
        yield rows, _cut(grid, (rows, slice(0, grid.shape[1]), slice(0, grid.shape[2])))


def _cut(grid: Grid, box: tuple[slice, ...]) -> Grid:
    origin = tuple(o + s * b.start for o, s, b in zip(grid.origin_mm, grid.spacing_mm, box, strict=True))
    return replace(grid, shape=tuple(b.stop - b.start for b in box), origin_mm=origin)


def _fill_outside(traits: Traits, part: Head, head_mm: np.ndarray, air: np.ndarray, mixture: np.ndarray) -> None:
    """Skull, scalp, the filling below the brain, and air, into part.signal and part.chi_ppm."""
    bone_end = traits.skull_mm + RIM_MM
    skin = bone_end + traits.scalp_mm
    part.signal[:], part.chi_ppm[:] = 0, AIR_PPM
    where = np.flatnonzero((part.brain_mm >= RIM_MM) & (head_mm < skin + 0.5))
    brain_mm, head_mm, air, mixture = (v.reshape(-1)[where] for v in (part.brain_mm, head_mm, air, mixture))
    scalp = np.clip(head_mm - np.float32(bone_end - 0.5), 0, 1)
    filling = np.clip(0.5 - head_mm, 0, 1) * np.clip(brain_mm - np.float32(traits.skull_mm - 0.5), 0, 1)
    mixture = np.clip(MIXTURE + MIXTURE_SPREAD * mixture, 0.04, 0.8)  # a mixture of tissues
    bone = 1 - np.clip(scalp + filling, 0, 1)
    air = np.maximum(air, np.clip(head_mm - np.float32(skin - 0.5), 0, 1))
    part.signal.reshape(-1)[where] = (bone * BONE_SIGNAL + scalp * FAT_SIGNAL + filling * mixture) * (1 - air)
    part.chi_ppm.reshape(-1)[where] = (bone * BONE_PPM + scalp * FAT_PPM) * (1 - air) + air * AIR_PPM


def _fill_brain(tissue: _Tissue, template: Template, mm: np.ndarray, coarse: Grid, slab: Grid, part: Head) -> None:
    """Grey, white, fluid and iron into the brain's voxels of a slab; mm: template coordinates on `coarse`."""
    brain = part.brain_mm < RIM_MM
    spans = [np.flatnonzero(brain.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        return
    box = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    brain = brain[box]
    at = resample(mm, coarse, _cut(slab, box))[:, brain] - np.array(template.full.origin_mm, np.float32)[:, None]
    grey, white, iron, lesion = look_up(tissue.maps, at)
    fluid = np.maximum(1 - grey - white, 0) * np.float32(1 + tissue.widening)  # sulci widen where cortex and fluid share voxels
    # Sharpens borders: those of the average brain are blurred, those of a subject's own cortex as wide as the maps' voxels.
    parts = {"grey": grey * grey, "white": white * white, "fluid": fluid * fluid}
    if template.own_sulci:
        parts = {t: share * share for t, share in parts.items()}
    share = 1 / (parts["grey"] + parts["white"] + parts["fluid"] + np.float32(1e-6))
    bright = sum(parts[t] * np.float32(tissue.signal[t]) for t in parts) * share
    chi = sum(parts[t] * np.float32(CHI_PPM[t]) for t in parts) * share
    some = np.flatnonzero(lesion)
    bright[some] *= 1 + lesion[some] * np.float32(255 * LESION_STEP) * (parts["white"] * share)[some]
    some = np.flatnonzero(iron)
    last = np.array(template.full.shape)[:, None] - 1
    which = template.nucleus[tuple(np.clip(np.rint(at[:, some]), 0, last).astype(np.intp))]
    bright[some] *= np.exp(-iron[some] * tissue.decay[which])
    chi[some] += iron[some] * (tissue.ppm[which] - chi[some])
    part.signal[box][brain], part.chi_ppm[box][brain] = bright, chi
