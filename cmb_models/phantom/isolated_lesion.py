"""SWI of isolated lesions in a uniform background, without noise, by the same acquisition as a whole head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_models.phantom.lesions.lesion import Lesion, add_lesion
from cmb_models.phantom.scanner import acquisition, images
from cmb_models.phantom.scanner.slab import Slab


def uniform_signal(slab: Slab, lesions: Sequence[Lesion]) -> np.ndarray:
    """Complex64 signal (I, J, K) on slab.fine of lesions in a background of 1; all 1 without lesions."""
    signal = np.ones(slab.fine.shape, np.complex64)
    for lesion in lesions:
        add_lesion(signal, slab, lesion)
    return signal


def uniform_swi(slab: Slab, lesions: Sequence[Lesion]) -> np.ndarray:
    """SWI (I, J, K) float32 on slab.acquired of lesions in a background of 1; all 1 without lesions."""
    return uniform_images(slab, lesions)[0]


def uniform_images(slab: Slab, lesions: Sequence[Lesion]) -> tuple[np.ndarray, np.ndarray]:
    """SWI and phase of lesions in a background of 1.

    Returns:
        The SWI as `uniform_swi`, and the high-pass filtered phase (I, J, K) float32 in radians, in [-pi, pi]; 0 far from lesions.
    """
    signal, config = uniform_signal(slab, lesions), slab.config
    image = acquisition.scan_signal(np.random.default_rng(0), signal, slab.acquired.shape, 0.0, config.resolved)
    return swi_of(image, slab), images.highpass_phase(image, config.highpass_half_width)


def swi_of(image: np.ndarray, slab: Slab) -> np.ndarray:
    """SWI (I, J, K) float32 of a complex image (I, J, K), with the phase filter and mask of the slab's protocol."""
    phase = images.highpass_phase(image, slab.config.highpass_half_width)
    return images.swi(np.abs(image), phase, slab.config.mask_power)
