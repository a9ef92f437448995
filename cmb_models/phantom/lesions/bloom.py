"""Blooming: the apparent size of a lesion in SWI, given the size of its body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.config import PhantomConfig


@dataclass(frozen=True)
class Seen:
    """What ties a body to the diameter D of the sphere as large as the region whose SWI is below half of what is around.

    2 gain radius bloom / (1 + filter D / wavelength) = cbrt(D^3 + (in_plane v)^3 + (across w)^3), with the bloom (at least `least`)
    of bloom_ratio, the phase filter's wavelength, v the mean side of what is resolved in plane, and w that across slices. A spot
    must be larger than the resolution by that much to reach half of the depth at all.
    """

    gain: float
    filter: float
    in_plane: float
    across: float
    least: float


SEEN = {  # fitted by research/phantom_bloom.py, which prints how far off it is, at a mask to the fourth power
    "cmb": Seen(1.532, 0.146, 1.56, 0.36, 0.80),
    "mimic:calcification": Seen(1.371, 0.128, 1.69, 0.78, 0.70),
    "mimic:iron": Seen(1.335, 0.056, 1.98, 0.32, 0.48),
}


def bloom_ratio(chi_ppm: float, radians_per_ppm: float) -> float:
    """(chi gamma B0 TE / 3 pi)^(1/3): where the phase at a sphere's equator is pi, over the sphere's radius."""
    return float(np.cbrt(abs(chi_ppm) * radians_per_ppm / (3 * np.pi)))


def body_radius_mm(diameter_mm: float, chi_ppm: float, config: PhantomConfig, label: str = "cmb") -> float:
    """Radius in mm of a body that appears with a given diameter in the SWI.

    Args:
        diameter_mm: Apparent diameter, blooming included.
        chi_ppm: Susceptibility difference to the surroundings, ppm; its sign is ignored.
        config: The protocol.
        label: A key of SEEN.
    """
    seen = SEEN[label]
    x, y, z = (s / r for s, r in zip(config.spacing_mm, config.resolved, strict=True))
    wavelength = 2 * config.fov_mm[0] / config.highpass_vox  # where the filter's window in k-space ends
    dephased = np.cbrt(diameter_mm**3 + (seen.in_plane * np.sqrt(x * y)) ** 3 + (seen.across * z) ** 3)
    bloom = max(seen.least, bloom_ratio(chi_ppm, config.radians_per_ppm))
    return float(dephased * (1 + seen.filter * diameter_mm / wavelength) / (2 * seen.gain * bloom))
