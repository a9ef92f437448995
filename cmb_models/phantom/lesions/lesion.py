"""A lesion, its body added to the signal below the voxel size, and its place in the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_models.phantom.grid import apply_along, linear_matrix
from cmb_models.phantom.lesions.bodies import Body, blob, popcorn, tube
from cmb_models.phantom.scanner.acquisition import complex_signal, cut_kspace
from cmb_models.phantom.scanner.field import dipole_field
from cmb_models.phantom.scanner.slab import Slab

INNER_SIGNAL = {  # at the echo, against the tissue around: assumed
    "cmb": 0.1,
    "mimic:calcification": 0.25,
    "mimic:iron": 0.6,
    "mimic:air_bone": 0.0,
    "mimic:cavernoma": 0.1,
    "mimic:flow_void": 0.1,
}
STEP_MM, STEP_PER_BLOOM = 0.25, 1 / 8  # bodies are made in such steps, larger ones in larger
DIES_RAD = 0.06  # the box ends where the phase at the pole has fallen to this
FADE_VOX = 2  # the change fades out over these fine voxels at the edge of the box


@dataclass(frozen=True)
class Lesion:
    """What a subject has, in head mm; the same at every time point.

    region: of the brain, or the kind of place. centre_mm: where it is seen. diameter_mm: of the sphere as large as what is seen.
    radius_mm: of the body that holds the susceptibility chi_ppm or darkens the signal; 0 when the head holds it already, as veins.
    seed: of the body's shape. placement: "", "cluster", "edge" or "beside_vein". body_from_seen_mm: from centre_mm to the body's
    middle. along_mm: from end to end of a tube. inner_signal: of
    the body against the tissue around, at the echo; None for INNER_SIGNAL of its kind.
    """

    label: str
    region: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    radius_mm: float
    chi_ppm: float
    seed: int = 0
    placement: str = ""
    body_from_seen_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    along_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    inner_signal: float | None = None


def add_lesion(signal: np.ndarray, slab: Slab, lesion: Lesion) -> None:
    """Add a lesion to the complex64 signal (I, J, K) on slab.fine, in place; one without a body adds nothing.

    In a box on a finer grid: the signal around (interpolated) loses the lesion's share, gains its dipole phase, and the CHANGE
    is cut down in k-space to the fine grid. Fields add up, so the rest of the head need not be computed again. What of the box
    lies beyond the grid is left out.
    """
    if lesion.radius_mm <= 0:
        return
    body_mm = slab.from_head(np.add(lesion.centre_mm, lesion.body_from_seen_mm)[None])[0]
    low, n, parts = _box(slab, lesion, body_mm)
    first, last = np.maximum(low, 0), np.minimum(low + n, signal.shape)
    if np.any(first >= last):
        return
    inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    at = [np.arange(n[a] * parts[a]) / parts[a] for a in range(3)]
    around = signal[inside]
    for axis in range(3):
        around = apply_along(around, linear_matrix(at[axis] + (low - first)[axis], around.shape[axis]), axis - 3)
    spacing = np.array(slab.fine.spacing_mm)
    away = [(at[a] + low[a]) * spacing[a] + slab.fine.origin_mm[a] - body_mm[a] for a in range(3)]
    body = _body(lesion, _head_axes(slab, away), float(np.prod(spacing / parts) ** (1 / 3)))
    change = _change(around, body, lesion.chi_ppm * slab.config.radians_per_ppm, tuple(spacing / parts), slab.b0)
    for axis in range(3):
        edge = np.minimum(at[axis], n[axis] - 1 - at[axis])
        change *= np.moveaxis(np.clip(edge / FADE_VOX, 0, 1).astype(np.float32)[:, None, None], 0, axis)
    cut = cut_kspace(change, tuple(n))
    signal[inside] += cut[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))]


def lesion_mask(lesions: Sequence[Lesion], slab: Slab) -> np.ndarray:
    """(I, J, K) uint8 on slab.kept_grid: n + 1 within the ball of the n-th lesion's seen diameter and at its nearest voxel.

    0 elsewhere, everywhere without lesions. A lesion outside the field of view leaves no trace.
    """
    grid = slab.kept_grid
    mask = np.zeros(grid.shape, np.uint8)
    for number, lesion in enumerate(lesions, start=1):
        centre = slab.from_head(np.array(lesion.centre_mm)[None])
        nearest = np.rint(grid.index(centre)[0]).astype(int)
        reach = np.ceil(lesion.diameter_mm / 2 / np.array(grid.spacing_mm)).astype(int) + 1
        low, high = np.maximum(nearest - reach, 0), np.minimum(nearest + reach + 1, grid.shape)
        if np.any(low >= high):
            continue
        x, y, z = (grid.axis_mm(a)[low[a] : high[a]] - centre[0, a] for a in range(3))
        ball = np.square(x)[:, None, None] + np.square(y)[:, None] + np.square(z) <= (lesion.diameter_mm / 2) ** 2
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][ball] = number
        if np.all((nearest >= 0) & (nearest < grid.shape)):
            mask[tuple(nearest)] = number
    return mask


def _box(slab: Slab, lesion: Lesion, body_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The box around a body on the fine grid: first voxel, number of voxels, parts of each voxel; all (3,) int."""
    moment = abs(lesion.chi_ppm) * slab.config.radians_per_ppm * lesion.radius_mm**3
    bloom_mm = max(lesion.radius_mm, float(np.cbrt(moment / (3 * np.pi))))
    reach = max(float(np.cbrt(2 / 3 * moment / DIES_RAD)), 1.5 * lesion.radius_mm + 1.0)  # dents and half axes reach further
    reach += float(np.linalg.norm(lesion.along_mm)) / 2
    spacing = np.array(slab.fine.spacing_mm)
    half = np.ceil(reach / spacing).astype(int) + FADE_VOX
    middle = np.rint(slab.fine.index(body_mm)).astype(int)
    return middle - half, 2 * half, np.ceil(spacing / max(STEP_MM, STEP_PER_BLOOM * bloom_mm) - 0.1).astype(int)


def _head_axes(slab: Slab, away_mm: list[np.ndarray]) -> np.ndarray:
    """Distances along the slab's axes, (I,), (J,), (K,), to vectors along the head's, (3, I, J, K) float32."""
    matrix = slab.to_head.rotation.as_matrix().astype(np.float32)
    x, y, z = (a.astype(np.float32) for a in away_mm)
    return np.stack([(row[0] * x)[:, None, None] + (row[1] * y)[:, None] + row[2] * z for row in matrix])


def _body(lesion: Lesion, away: np.ndarray, step_mm: float) -> Body:
    inner = INNER_SIGNAL[lesion.label] if lesion.inner_signal is None else lesion.inner_signal
    if lesion.label == "mimic:flow_void":
        return tube(away, lesion.radius_mm, np.array(lesion.along_mm), step_mm, inner)
    shape = popcorn if lesion.label == "mimic:cavernoma" else blob
    return shape(lesion.seed, away, lesion.radius_mm, step_mm, inner)


def _change(around: np.ndarray, body: Body, radians: float, spacing_mm: tuple, b0: np.ndarray) -> np.ndarray:
    """What a body adds to the signal `around` (I, J, K): complex64. radians: phase for a field shift of its susceptibility."""
    if radians == 0:
        return around * (body.signal - 1)
    phase = dipole_field(body.chi, spacing_mm, tuple(b0)) * np.float32(radians)
    factor = complex_signal(body.signal, phase)  # with the loss within each of these small voxels, too
    factor -= 1
    return np.multiply(around, factor, out=factor)
