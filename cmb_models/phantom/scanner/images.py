"""From the complex image to what a reader sees and a site stores: high-pass phase, SWI, minimum-intensity projection, integers."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import scipy.fft
from scipy import ndimage

from cmb_models.phantom.config import PhantomConfig
from cmb_models.volume import Volume

MINIP_MM = 16.0  # thickness projected: a usual slab of SWI reading (8 slices of 2 mm, Haacke 2009, PMC3805391)


def highpass_phase(signal: np.ndarray, half_width: tuple[float, float]) -> np.ndarray:
    """Homodyne phase in radians, -pi..pi, (I, J, K) float32: each slice divided by its low-pass, a Hann window in k-space.

    half_width: where the window ends along i and j, in cycles per voxel (Haacke 2009, PMC3805391: 16 to 48 cycles per image).
    """
    windows = []
    for n, end in zip(signal.shape[:2], half_width, strict=True):
        k = np.abs(scipy.fft.fftfreq(n)) / end
        windows.append(np.where(k < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(k, 1)), 0).astype(np.float32))
    spectrum = scipy.fft.fft2(signal, axes=(0, 1), workers=1)
    spectrum *= (windows[0][:, None] * windows[1])[:, :, None]
    smooth = scipy.fft.ifft2(spectrum, axes=(0, 1), overwrite_x=True, workers=1)
    np.conj(smooth, out=smooth)
    smooth *= signal
    return np.angle(smooth)


def swi(magnitude: np.ndarray, phase: np.ndarray, power: int = 4) -> np.ndarray:
    """Magnitude times the phase mask: 1 for phase <= 0, falling to 0 at pi, to `power` (Haacke 2009). Same shape and unit."""
    mask = np.clip(1 - phase / np.float32(np.pi), 0, 1)
    return magnitude * mask**power


def minimum_projection(swi_image: np.ndarray, slice_mm: float) -> np.ndarray:
    """Minimum over MINIP_MM of slices around each slice, (I, J, K): veins become lines, microbleeds stay spots."""
    return ndimage.minimum_filter1d(swi_image, max(1, round(MINIP_MM / slice_mm)), axis=2, mode="nearest")


def stored(data: np.ndarray, affine: np.ndarray, orientation: str) -> Volume:
    """A volume with its axes flipped and ordered as a scanner of this orientation ("LAS") stores them; affine as given for RAS."""
    codes = nib.orientations.axcodes2ornt(orientation)
    turned = nib.orientations.apply_orientation(data, codes)
    return Volume(np.ascontiguousarray(turned), affine @ nib.orientations.inv_ornt_aff(codes, data.shape))


def phase_numbers(phase: np.ndarray, config: PhantomConfig) -> np.ndarray:
    """Phase in radians to the whole numbers the vendor stores, with its sign: float32."""
    vendor = config.vendor_habits
    return np.rint(phase * np.float32(vendor.phase_sign / vendor.phase_unit))
