"""Slices and three-plane patches at 0.5 mm a pixel: read from files of real scans, or cut from simulated ones."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_models.errors import InputError
from cmb_models.phantom.presets import draw_config
from cmb_models.phantom.scan import SimulatedScan, simulate_scan
from cmb_models.volume import index_from_world

PIXEL_MM = 0.5
SIDE = 49  # pixels of a plane
SPACING_MM, TE_MS, FIELD_T = (0.5, 0.5, 1.0), 24.0, 3.0  # of the real scans: 0.45 x 0.45 x 2 mm, stored at 1 mm, shown at 0.5
SNR, RESOLVED = (26.0, 40.0), (0.75, 0.75, 0.5)  # assumed: their slices are smooth from one pixel to the next
CMBS = 6  # in each simulated scan
LEVELS = (0.25, 0.85)  # heights of the slices taken from a simulated scan, as a share of the brain's extent


@dataclass(frozen=True)
class Slice:
    """An axial slice (I, J) float32, 0 outside the brain, of one subject."""

    subject: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Planes:
    """Axial, coronal and sagittal plane (3, SIDE, SIDE) float32 through a site in the middle; kind "cmb" or "false_positive".

    Axes: (x, y), (x, z) and (y, z).
    """

    subject: str
    kind: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Site:
    """Planes through a site and the whole axial slice through it; axial_k: number of that slice in its subject's scan."""

    planes: Planes
    axial: Slice
    axial_k: str


def read_real(folder: Path) -> tuple[list[Slice], list[Planes]]:
    """The real slices and planes; slices of one subject that are the same image are given once.

    folder: with planes.npz, planes.csv and axial/NNN.png. Raises InputError where they are missing.
    """
    sites, slices = read_sites(folder), {}
    for site in sites:
        slices.setdefault((site.axial.subject, site.axial_k), site.axial)
    return list(slices.values()), [site.planes for site in sites]


def read_sites(folder: Path) -> list[Site]:
    """The real sites, each with the whole axial slice through it, in the order of planes.csv. Arguments as `read_real`."""
    from PIL import Image

    if not (folder / "planes.npz").is_file():
        raise InputError(
            "file-not-found", folder, "planes.npz, planes.csv and axial/", "none", "give the folder that holds the real planes"
        )
    pixels = np.load(folder / "planes.npz")["planes"].astype(np.float32)
    with (folder / "planes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sites = []
    for row in rows:
        image = np.asarray(Image.open(folder / f"axial/{int(row['index']):03d}.png").convert("L"), np.float32)
        planes = Planes(row["subject"], row["kind"], pixels[int(row["index"])])
        sites.append(Site(planes, Slice(row["subject"], image), row["k"]))
    return sites


def simulated(seed: int, generation: int, per_scan: int) -> tuple[list[Slice], list[Planes]]:
    """One simulated subject's slices, per_scan of them at random heights, and planes through all its microbleeds."""
    rng = np.random.default_rng([seed, 36])
    scan, volume = simulated_like_real(seed, generation, rng)
    heights = np.flatnonzero(volume.any(axis=(0, 1)))
    at = heights[0] + np.rint(rng.uniform(*LEVELS, per_scan) * len(heights)).astype(int)
    name = f"simulated-{seed}"
    slices = [Slice(name, _tight(volume[:, :, k])) for k in at]
    centres = index_from_world(np.array([a.centre_mm for a in scan.annotations if a.is_cmb]), scan.swi.affine)
    spacing = np.asarray(SPACING_MM)
    return slices, [Planes(name, "cmb", cut_planes(volume, c, spacing)) for c in centres]


def simulated_like_real(
    seed: int, generation: int, rng: np.random.Generator, preset: str = "plain", cmbs: int = CMBS
) -> tuple[SimulatedScan, np.ndarray]:
    """A scan by the protocol of the real ones, and its SWI (I, J, K) float32, 0 outside the brain. preset: of the field of view."""
    config = draw_config(preset, rng, SPACING_MM, TE_MS, FIELD_T)
    config = replace(config, snr=float(rng.uniform(*SNR)), resolved=RESOLVED, generation=generation, orientation="RAS")
    scan = simulate_scan(seed, cmbs, config)
    return scan, np.where(scan.brain_mask.data > 0, scan.swi.data, 0).astype(np.float32)


def cut_planes(volume: np.ndarray, centre: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Axial (x, y), coronal (x, z) and sagittal (y, z) plane through a voxel index (3,), (3, SIDE, SIDE) at PIXEL_MM, linearly."""
    offset = (np.arange(SIDE) - SIDE // 2) * PIXEL_MM
    planes = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        at = np.tile(np.asarray(centre, float)[:, None, None], (1, SIDE, SIDE))
        at[a] += offset[:, None] / spacing_mm[a]
        at[b] += offset[None, :] / spacing_mm[b]
        planes.append(ndimage.map_coordinates(volume, at, np.float32, order=1, mode="constant"))
    return np.stack(planes)


def _tight(image: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(image.any(axis=a)) for a in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def patches(slices: list[Slice], rng: np.random.Generator, per_slice: int, side_mm: float) -> Iterator[tuple[str, np.ndarray]]:
    """Square patches that lie in the brain to nine tenths, averaged to 1 mm and over their own median: subject and (N, N)."""
    side = round(side_mm / PIXEL_MM)
    for one in slices:
        brain = ndimage.binary_fill_holes(ndimage.binary_closing(one.pixels > 0, iterations=3))
        share = ndimage.uniform_filter(brain.astype(np.float32), side)
        middle = np.argwhere(share > 0.9)
        inside = np.all((middle >= side // 2) & (middle + side // 2 <= np.array(brain.shape)), axis=1)
        for i, j in rng.permutation(middle[inside])[:per_slice]:
            patch = one.pixels[i - side // 2 : i + side // 2, j - side // 2 : j + side // 2]
            patch = patch.reshape(side // 2, 2, side // 2, 2).mean(axis=(1, 3))
            yield one.subject, patch / np.median(patch)
