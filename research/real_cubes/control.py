"""Simulated lesions whose whole cube is known: what assembling it from its three planes changes in the scores."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cmb_models.volume import index_from_world
from research.real_planes.images import PIXEL_MM, SIDE, SPACING_MM, simulated_like_real
from research.stages import ROOT

CMBS = 5  # in each simulated piece of a head
CACHE = ROOT / "research/.cache/real_cubes"


@dataclass(frozen=True)
class KnownCube:
    """Cube (SIDE, SIDE, SIDE) float32 around a simulated lesion, and the axial slice (I, J) through it; 0 outside the brain."""

    subject: str
    label: str
    cube: np.ndarray
    axial: np.ndarray


def known_cubes(generation: int, scans: int) -> list[KnownCube]:
    """All lesions of simulated scans by the real ones' protocol, kept in CACHE; a slab of 96 x 96 x 80 mm each."""
    found = []
    for seed in range(scans):
        file = CACHE / f"generation{generation}-{seed}.pickle"
        if not file.is_file():
            CACHE.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps(_simulated(generation, seed)))
        found += pickle.loads(file.read_bytes())
    return found


def _simulated(generation: int, seed: int) -> list[KnownCube]:
    scan, volume = simulated_like_real(seed, generation, np.random.default_rng([seed, 49]), "small", CMBS)
    found = []
    for a in scan.annotations:
        at = index_from_world(np.array([a.centre_mm]), scan.swi.affine)[0]
        if a.label != "possible" and inside(at, volume.shape):
            axial = volume[:, :, round(at[2])]
            found.append(KnownCube(f"generation{generation}-{seed}", a.label, cut_cube(volume, at), axial))
    return found


def inside(at_vox: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether the whole cube around a voxel index (3,) lies within a volume of SPACING_MM."""
    half = SIDE // 2 * PIXEL_MM / np.array(SPACING_MM)
    return bool(np.all(at_vox - half >= 0) and np.all(at_vox + half <= np.array(shape) - 1))


def cut_cube(volume: np.ndarray, at_vox: np.ndarray) -> np.ndarray:
    """The cube (SIDE, SIDE, SIDE) at PIXEL_MM around a voxel index (3,) of a volume of SPACING_MM, linearly."""
    offset = (np.arange(SIDE) - SIDE // 2) * PIXEL_MM
    axes = [c + offset / s for c, s in zip(at_vox, SPACING_MM, strict=True)]
    return ndimage.map_coordinates(volume, np.meshgrid(*axes, indexing="ij"), np.float32, order=1, mode="constant")
