"""Changes to a training patch that leave what it shows true. All draws come from the generator passed in."""

from __future__ import annotations

import numpy as np

from cmb_models.training.synthesis.insertion import wrapped

GAIN = 0.15  # contrast differs between scanners and echo times by about this share
OFFSET = 0.05  # in units of the head's 5-95 percentile range
NOISE = 0.1  # highest added noise, same unit: two to three times what scans have of their own, since protocols differ as much
PHASE_NOISE = 0.1  # radians, highest added: tissue at an SNR of 10


def flip_and_turn(arrays: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same random flips of all axes and exchange of i and j (where square) on every (..., I, J, K) array.

    i and j have the same spacing on the working grid of axial scans, so a quarter turn keeps lesions round.
    """
    flips = tuple(axis for axis in (-3, -2, -1) if rng.random() < 0.5)
    turn = rng.random() < 0.5
    changed = []
    for array in arrays:
        array = np.flip(array, flips) if flips else array
        square = array.shape[-3] == array.shape[-2]
        changed.append(np.ascontiguousarray(np.swapaxes(array, -3, -2) if turn and square else array))
    return changed


def vary_intensity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gain, offset, smooth bias along a random direction and noise on a normalised (I, J, K) float32 image."""
    gain = 1 + GAIN * rng.uniform(-1, 1)
    offset = OFFSET * rng.uniform(-1, 1)
    ramps = [np.linspace(-1, 1, size, dtype=np.float32) * rng.uniform(-OFFSET, OFFSET) for size in image.shape]
    bias = ramps[0][:, None, None] + ramps[1][None, :, None] + ramps[2][None, None, :]
    # Squared: half of the patches keep nearly the noise they have.
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(NOISE * rng.random() ** 2)
    return (image * np.float32(gain) + np.float32(offset) + bias + noise).astype(np.float32)


def vary_phase(phase: np.ndarray, dropout: float, rng: np.random.Generator) -> np.ndarray:
    """Random scale (another echo time) and noise on phase (I, J, K) float32 in radians, wrapped; all 0 with probability dropout."""
    scale, noise = 1 + GAIN * rng.uniform(-1, 1), np.float32(PHASE_NOISE * rng.random())
    if rng.random() < dropout:
        return np.zeros_like(phase)
    return wrapped(phase * np.float32(scale) + rng.standard_normal(phase.shape, dtype=np.float32) * noise)
