"""Microbleeds of the phantom's second generation, each alone in a signal of 1, and their insertion into a real scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.isolated_lesion import swi_of, uniform_signal
from cmb_models.phantom.lesions.cmbs import body_of
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.scanner import acquisition
from cmb_models.phantom.scanner.slab import Slab, make_slab
from cmb_models.volume import triple
from research.real_backgrounds.scans import Background


@dataclass(frozen=True)
class Insertion:
    """A microbleed to insert: at_vox (3,), voxel index with fractions; diameter as it appears in SWI; body: seed of its shape."""

    at_vox: tuple[float, float, float]
    diameter_mm: float
    chi_ppm: float
    body: int


def cmb(centre_mm: Sequence[float], diameter_mm: float, chi_ppm: float, seed: int, config: PhantomConfig) -> Lesion:
    """The microbleed that phantom.lesions.cmbs makes of this diameter, susceptibility and seed."""
    radius, signal = body_of(diameter_mm, chi_ppm, seed, config)
    return Lesion("cmb", "", triple(centre_mm), diameter_mm, radius, chi_ppm, seed, inner_signal=signal)


def lesion_factor(insertion: Insertion, slab: Slab) -> np.ndarray:
    """What the microbleed multiplies the complex signal by: complex64, odd extents, at its place within the middle voxel."""
    config = slab.config
    fraction = np.asarray(insertion.at_vox) - np.rint(insertion.at_vox)
    centre = slab.to_head.apply(fraction * config.spacing_mm)  # the middle voxel's centre is the slab's origin
    signal = uniform_signal(slab, [cmb(centre, insertion.diameter_mm, insertion.chi_ppm, insertion.body, config)])
    return acquisition.scan_signal(np.random.default_rng(0), signal, slab.acquired.shape, 0.0, config.resolved)


def insert(background: Background, insertions: Sequence[Insertion], as_swi: bool = False) -> np.ndarray:
    """A copy of the scan's image with microbleeds.

    A complex image is multiplied by each one's factor. Magnitude alone is multiplied by the factor's size, or with as_swi by the
    SWI of a microbleed in a signal of 1, as synthetic lesions are inserted in training. The scan's own noise is multiplied too,
    so that the darkest voxels have less than a scanner's. What would lie beyond the scan is left out.
    """
    image, slab = background.image.copy(), make_slab(background.protocol)
    for insertion in insertions:
        factor = lesion_factor(insertion, slab)
        if not np.iscomplexobj(image):
            factor = swi_of(factor, slab) if as_swi else np.abs(factor)
        start = np.rint(insertion.at_vox).astype(int) - np.array(factor.shape) // 2
        low, high = np.maximum(start, 0), np.minimum(start + factor.shape, image.shape)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        image[here] *= factor[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
    return image
