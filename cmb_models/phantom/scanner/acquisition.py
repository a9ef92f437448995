"""From a head's signal and field to the complex image a scanner reconstructs.

Phase convention: +gamma * field * TE, so a paramagnetic vein along B0 has POSITIVE phase. Scanners of the other handedness are made
when the images are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft

MOTION_STEPS = 12  # nodes of the head's drift over the scan: seconds to tens of seconds each


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
    axes = [a for a in range(3) if signal.shape[a] != shape[a]]
    return to_image(to_kspace(signal, shape, axes), axes)


def to_kspace(signal: np.ndarray, shape: tuple[int, int, int], axes: Sequence[int]) -> np.ndarray:
    """k-space along `axes`, its centre of `shape` samples, lowest frequency first; the mean over all voxels keeps its size."""
    for axis in sorted(axes, key=lambda a: shape[a] / signal.shape[a]):  # most is cut first
        old, n = signal.shape[axis], shape[axis]
        spectrum = scipy.fft.fft(signal, axis=axis, workers=1)
        if n < old:
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(0, (n + 1) // 2), slice(old - n // 2, old)
            spectrum = np.concatenate([spectrum[tuple(low)], spectrum[tuple(high)]], axis=axis)
        signal = spectrum
        signal *= np.float32(n / old)
    return signal


def to_image(kspace: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Back from `to_kspace`: complex64."""
    for axis in axes:
        kspace = scipy.fft.ifft(kspace, axis=axis, overwrite_x=True, workers=1)
    return np.ascontiguousarray(kspace)


def scan_signal(
    rng: np.random.Generator,
    signal: np.ndarray,
    shape: tuple[int, int, int],
    sigma: float,
    resolved: tuple[float, float, float] = (1.0, 1.0, 1.0),
    drift_vox: np.ndarray | None = None,
) -> np.ndarray:
    """Sample the k-space of a signal as a scanner does, and transform back: complex64 of `shape`, ringing where edges are cut.

    sigma: standard deviation of the noise per channel in the image (Rician in the magnitude). resolved: share sampled along each
    axis, zeros elsewhere. drift_vox: (J', 2) displacement along j and k while each of the J' lines along j (in the order of their
    frequency, lowest negative first) was sampled, in voxels of `shape`.
    """
    moves = drift_vox is not None and bool(np.any(drift_vox))
    axes = [a for a in range(3) if signal.shape[a] != shape[a] or resolved[a] < 1 or (moves and a > 0)]
    kspace = to_kspace(signal, shape, axes)
    if drift_vox is not None and moves:
        _displace(kspace, drift_vox)
    share = float(np.prod(resolved))
    noise = rng.standard_normal((*shape, 2), dtype=np.float32)
    noise *= np.float32(sigma * np.sqrt(np.prod([shape[a] for a in axes]) / share))
    kspace += noise.view(np.complex64)[..., 0]
    for axis in axes:
        far = np.abs(np.fft.fftfreq(shape[axis])) > resolved[axis] / 2
        np.moveaxis(kspace, axis, 0)[far] = 0
    return to_image(kspace, axes)


def draw_drift_mm(rng: np.random.Generator, lines: int, motion_mm: float) -> np.ndarray:
    """Where the head is while each of `lines` is sampled: (lines, 2) mm along j and k, a slow drift with one start.

    0 at the middle line, which carries most of the picture: places in the scan are those of that moment.
    """
    path = np.cumsum(rng.standard_normal((MOTION_STEPS, 2)), axis=0)
    at = np.linspace(0, MOTION_STEPS - 1, lines)
    drift = np.stack([np.interp(at, np.arange(MOTION_STEPS), path[:, a]) for a in range(2)], axis=1)
    drift -= drift[lines // 2]
    return drift * motion_mm / max(float(np.abs(drift).max()), 1e-6)


def _displace(kspace: np.ndarray, drift_vox: np.ndarray) -> None:
    """Multiply k-space (transformed along j and k) by the phase of a displacement per line along j, in place."""
    _, j, k = kspace.shape
    ky, kz = np.fft.fftfreq(j)[:, None], np.fft.fftfreq(k)[None, :]
    order = np.fft.ifftshift(np.arange(j))  # frequencies as the transform has them, to lines in their order of sampling
    away = ky * drift_vox[order, 0][:, None] + kz * drift_vox[order, 1][:, None]
    kspace *= np.exp(-2j * np.pi * away).astype(np.complex64)
