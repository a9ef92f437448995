"""From a head's signal and field to what the scanner stores: complex image, high-pass phase, SWI.

Phase convention: +gamma * field * TE, so a paramagnetic vein along B0 has POSITIVE phase, and the SWI mask darkens positive phase.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from cmb_models.phantom.grid import Grid

HIGHPASS_PER_MM = 32 / 205  # half of a 64 x 64 window on a field of view of 205 mm (Haacke 2009, PMC3805391)
MASK_POWER = 4  # Haacke 2009, PMC3805391


def complex_signal(magnitude: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """(I, J, K) complex64 from magnitude and phase (radians), with the loss by the phase's spread within each voxel.

    The spread of a linear phase is a sinc; exp(-g^2 / 24), g the phase step between voxels, agrees with it up to its first zero.
    """
    spread = np.zeros_like(phase)
    for axis in range(3):
        step = np.moveaxis(np.square(np.diff(phase, axis=axis)), axis, 0)
        along = np.moveaxis(spread, axis, 0)
        along[1:] += step / 2
        along[:-1] += step / 2
    amplitude = magnitude * np.exp(spread * np.float32(-1 / 24))
    signal = np.empty(phase.shape, np.complex64)
    np.multiply(amplitude, np.cos(phase), out=signal.real)
    np.multiply(amplitude, np.sin(phase), out=signal.imag)
    return signal


def cut_kspace(signal: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Keep the centre of k-space: the same box in fewer voxels (complex64); voxel (0, 0, 0) stays where it is."""
    for axis, n in enumerate(shape):
        old = signal.shape[axis]
        if n == old:
            continue
        spectrum = np.moveaxis(scipy.fft.fft(signal, axis=axis, workers=1), axis, 0)
        low = (n + 1) // 2
        kept = np.concatenate([spectrum[:low], spectrum[old - (n - low) :]])
        signal = np.moveaxis(scipy.fft.ifft(kept, axis=0, workers=1), 0, axis) * np.float32(n / old)
    return np.ascontiguousarray(signal)


def add_noise(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Complex Gaussian noise of standard deviation sigma per channel: Rician in the magnitude."""
    noise = rng.standard_normal((*signal.shape, 2), dtype=np.float32) * np.float32(sigma)
    return signal + noise.view(np.complex64)[..., 0]


def highpass_phase(signal: np.ndarray, grid: Grid) -> np.ndarray:
    """Homodyne phase in radians, -pi..pi, (I, J, K) float32: each slice divided by itself behind a Hann window in k-space."""
    windows = []
    for n, step in zip(grid.shape[:2], grid.spacing_mm[:2], strict=True):
        k = np.abs(scipy.fft.fftfreq(n, step)) / HIGHPASS_PER_MM
        windows.append(np.where(k < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(k, 1)), 0).astype(np.float32))
    spectrum = scipy.fft.fft2(signal, axes=(0, 1), workers=1)
    spectrum *= (windows[0][:, None] * windows[1])[:, :, None]
    smooth = scipy.fft.ifft2(spectrum, axes=(0, 1), overwrite_x=True, workers=1)
    return np.angle(signal * smooth.conj())


def swi(magnitude: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Magnitude times the phase mask: 1 for phase <= 0, falling to 0 at pi, to the fourth power. Same shape and unit."""
    return magnitude * np.clip(1 - phase / np.float32(np.pi), 0, 1) ** MASK_POWER
