"""From susceptibility to the field it makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft


def dipole_field(
    chi_ppm: np.ndarray, spacing_mm: tuple[float, float, float], b0: Sequence[float] | np.ndarray = (0.0, 0.0, 1.0)
) -> np.ndarray:
    """Field shift along B0 in ppm, periodic at the edges, mean zero; same shape, float32.

    chi_ppm: (I, J, K) float32 susceptibility. b0: unit vector (3,) along the array's axes. The kernel 1/3 - (k.b0)^2/k^2 holds the
    Lorentz correction (Marques and Bowtell 2005, 10.1002/cmr.b.20034).
    """
    shape = chi_ppm.shape
    kx, ky = (scipy.fft.fftfreq(n, d).astype(np.float32) for n, d in zip(shape[:2], spacing_mm[:2], strict=True))
    kz = scipy.fft.rfftfreq(shape[2], spacing_mm[2]).astype(np.float32)
    bx, by, bz = (np.float32(b) for b in b0)
    square, along = np.square(ky)[:, None] + np.square(kz), by * ky[:, None] + bz * kz
    spectrum = scipy.fft.rfftn(np.asarray(chi_ppm, np.float32), workers=1)
    for i, k in enumerate(kx):  # plane by plane: a kernel of the whole box would be as large as the spectrum
        k2 = square + k * k
        k2[0, 0] = k2[0, 0] or 1.0
        spectrum[i] *= np.float32(1 / 3) - np.square(along + bx * k) / k2
    spectrum[0, 0, 0] = 0.0
    return scipy.fft.irfftn(spectrum, s=shape, overwrite_x=True, workers=1)


def shim(field_ppm: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Take away, as a scanner's shim does, the best quadratic along each axis within `inside` (bool, same shape)."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in field_ppm.shape]
    where = np.argwhere(inside[::4, ::4, ::4]) * 4
    columns: list[np.ndarray] = [np.ones(len(where))]
    for a, line in enumerate(axes):
        columns += [line[where[:, a]], line[where[:, a]] ** 2]
    weights = np.linalg.lstsq(np.stack(columns, 1), field_ppm[tuple(where.T)], rcond=None)[0].astype(np.float32)
    x, y, z = (weights[1 + 2 * a] * axes[a] + weights[2 + 2 * a] * axes[a] ** 2 for a in range(3))
    return field_ppm - (weights[0] + x[:, None, None] + y[:, None] + z)
