"""How large the simulator's lesions are seen in SWI: measures it, fits SEEN of lesions/bloom.py, prints what the fit misses.

Lesions in a uniform medium, over body radius, susceptibility, field, echo time, voxel and phase filter; three bodies and places
within the voxel each. About four minutes on one core: python -m research.phantom_bloom [--quick]
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import brentq, least_squares

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.grid import apply_along, linear_matrix
from cmb_models.phantom.isolated_lesion import swi_of, uniform_swi
from cmb_models.phantom.lesions.bloom import SEEN, Seen, bloom_ratio, body_radius_mm
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.scanner import acquisition
from cmb_models.phantom.scanner.field import dipole_field
from cmb_models.phantom.scanner.slab import Slab
from tests.support.phantoms import lone_slab

PROTOCOLS = {  # spacing mm, field T, echo ms, window of the phase filter in cycles per mm (side over field of view), resolved share
    "plain": ((1.0, 1.0, 2.0), 3.0, 20.0, 64 / 200, (1.0, 1.0, 1.0)),
    "ukb": ((0.8, 0.8, 3.0), 3.0, 20.0, 64 / 205, (1.0, 0.9, 1.0)),
    "aibl": ((0.9375, 0.9375, 1.75), 3.0, 20.0, 64 / 200, (1.0, 0.95, 0.9)),
    "clinical": ((0.9, 0.9, 4.0), 1.5, 40.0, 96 / 200, (1.0, 0.8, 1.0)),
    "7t": ((0.5, 0.5, 1.0), 7.0, 15.0, 96 / 190, (1.0, 1.0, 1.0)),
    "fine 1.5 T": ((0.5, 0.5, 1.0), 1.5, 24.0, 32 / 200, (1.0, 0.8, 0.9)),
    "thick 3 T": ((0.5, 0.5, 3.5), 3.0, 28.0, 96 / 200, (1.0, 1.0, 1.0)),
    "low 1.5 T": ((0.9, 0.9, 1.2), 1.5, 22.0, 64 / 200, (1.0, 0.8, 0.8)),
}
CHI_PPM = {"cmb": (0.5, 1.0, 2.0, 4.0), "mimic:calcification": (-0.2, -0.6, -2.0), "mimic:iron": (0.2, 0.35, 0.6)}
DEPHASED_MM = (0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.3, 3.0)  # radius times bloom factor
FITTED_MM = (1.2, 8.0)  # seen diameters that count
STEP_MM, HALF_MM = 0.2, 14.0  # of the grid that seen volumes are counted on
VEIN_RADII_MM, VEIN_PPM, VEIN_SIGNAL = (0.35, 0.5, 0.7, 1.0, 1.4), 0.53, 0.4  # docs/explanation/phantom.md: venous .43 to .64 ppm


@dataclass(frozen=True)
class Row:
    """One body: diameter_mm is the mean of what was seen, spread_mm its standard deviation over bodies and places."""

    protocol: str
    chi_ppm: float
    radius_mm: float
    diameter_mm: float
    spread_mm: float


def slab_of(spacing, field_t: float, te_ms: float, window: float, resolved) -> Slab:
    """The slab of one of PROTOCOLS."""
    return lone_slab(spacing, field_t, te_ms, window, resolved=resolved)


def dark_region(slab: Slab, swi: np.ndarray) -> np.ndarray:
    """Where the SWI, linearly between voxels, is below half of 1: bool (N, N, N) in steps of STEP_MM around the middle."""
    at = np.arange(-HALF_MM, HALF_MM, STEP_MM)
    for axis in range(3):
        index = (at - slab.acquired.origin_mm[axis]) / slab.acquired.spacing_mm[axis]
        swi = apply_along(swi, linear_matrix(index, slab.acquired.shape[axis]), axis - 3)
    return swi < 0.5


def ball_mm(region: np.ndarray) -> float:
    """Diameter of the ball as large as a region of dark_region."""
    return float(np.cbrt(6 / np.pi * region.sum()) * STEP_MM)


def measure(label: str, quick: bool) -> list[Row]:
    rows = []
    for name, protocol in PROTOCOLS.items():
        slab = slab_of(*protocol)
        for chi in CHI_PPM[label]:
            for dephased in DEPHASED_MM[:: 3 if quick else 1]:
                radius = dephased / max(1.0, bloom_ratio(chi, slab.config.radians_per_ppm))
                seen = []
                for seed in range(1, 2 if quick else 4):
                    centre = np.random.default_rng(seed).uniform(-0.5, 0.5, 3) * slab.config.spacing_mm
                    seen.append(
                        ball_mm(dark_region(slab, uniform_swi(slab, [Lesion(label, "", tuple(centre), 3.0, radius, chi, seed)])))
                    )
                rows.append(Row(name, chi, radius, float(np.mean(seen)), float(np.std(seen))))
    return rows


def fit(label: str, rows: list[Row]) -> Seen:
    """The constants with the least squares of log radius."""
    fitted = [r for r in rows if FITTED_MM[0] < r.diameter_mm < FITTED_MM[1]]
    configs = {name: slab_of(*protocol).config for name, protocol in PROTOCOLS.items()}

    def misses(values: np.ndarray) -> list[float]:
        SEEN[label] = Seen(*values)
        return [np.log(body_radius_mm(r.diameter_mm, r.chi_ppm, configs[r.protocol], label) / r.radius_mm) for r in fitted]

    return Seen(*least_squares(misses, [1.4, 0.1, 1.0, 0.4, 0.8], bounds=([0.3, -0.5, 0, 0, 0.05], [3, 2, 3, 3, 2])).x)


def report(label: str, rows: list[Row]) -> None:
    """What SEEN misses: seen less asked-for diameter, by protocol."""
    print(f"{'':12}{'lesions':>8}{'mean mm':>9}{'rms mm':>8}{'worst mm':>9}{'of seed and place mm':>22}")
    everything = []
    for name, protocol in PROTOCOLS.items():
        config = slab_of(*protocol).config
        fitted = [r for r in rows if r.protocol == name and FITTED_MM[0] < r.diameter_mm < FITTED_MM[1]]
        missed = []
        for r in fitted:
            missed.append(r.diameter_mm - _asked_mm(r, config, label))
        if not missed:
            continue
        everything += missed
        spread = np.mean([r.spread_mm for r in fitted])
        off = np.array(missed)
        print(f"{name:12}{len(off):8d}{off.mean():9.2f}{_rms(off):8.2f}{off[np.abs(off).argmax()]:9.2f}{spread:22.2f}")
    print(f"{'all':12}{len(everything):8d}{np.mean(everything):9.2f}{_rms(everything):8.2f}")


def _asked_mm(row: Row, config: PhantomConfig, label: str) -> float:
    """The diameter for which SEEN gives this body; 0 when it takes it for one that is not seen."""
    return max(brentq(lambda d: body_radius_mm(d, row.chi_ppm, config, label) - row.radius_mm, -3.0, 30.0), 0.0)


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def vein_widths() -> None:
    """Seen width over radius of a straight vein along slices' normal and B0."""
    print("\nvein through slices: seen diameter over radius, by radius in mm")
    print(f"{'':12}" + "".join(f"{r:8.2f}" for r in VEIN_RADII_MM))
    for name in ("plain", "ukb", "clinical", "7t"):
        slab = slab_of(*PROTOCOLS[name])
        print(
            f"{name:12}" + "".join(f"{np.mean([_vein_mm(slab, r, x) for x in (0.0, 0.25, 0.5)]) / r:8.2f}" for r in VEIN_RADII_MM)
        )


def _vein_mm(slab: Slab, radius_mm: float, off_vox: float) -> float:
    grid = slab.acquired
    step = grid.spacing_mm[0] / 5
    at = grid.origin_mm[0] + step * np.arange(5 * grid.shape[0]) - off_vox * grid.spacing_mm[0]
    share = np.clip((radius_mm - np.hypot(at[:, None], at)) / step + 0.5, 0, 1).astype(np.float32)[:, :, None]
    phase = dipole_field(VEIN_PPM * share, (step, step, step)) * np.float32(slab.config.radians_per_ppm)
    signal = ((1 - share * (1 - VEIN_SIGNAL)) * np.exp(1j * phase)).astype(np.complex64)
    swi = swi_of(acquisition.cut_kspace(signal, (*grid.shape[:2], 1)), slab)[:, :, 0]
    return float(np.sqrt(4 / np.pi * (ndimage.zoom(swi, 8, order=1) < 0.5).sum()) * grid.spacing_mm[0] / 8)


def cavernomas() -> None:
    """Seen diameter, the core filled in, over the body's."""
    print("\ncavernoma: seen over body's diameter, by radius in mm")
    radii = (2.7, 4.0, 6.0)
    print(f"{'':20}" + "".join(f"{r:8.1f}" for r in radii))
    for name in ("plain", "ukb", "aibl", "7t"):
        slab = slab_of(*PROTOCOLS[name])
        for chi in (0.3, 0.8):
            seen = []
            for radius in radii:
                dark = dark_region(slab, uniform_swi(slab, [Lesion("mimic:cavernoma", "", (0.1, 0.2, 0.3), 9.0, radius, chi, 1)]))
                filled = ndimage.binary_fill_holes(ndimage.binary_closing(dark, iterations=6))
                seen.append(ball_mm(filled) / 2 / radius)
            print(f"{name:12}{chi:4.1f} ppm" + "".join(f"{s:8.2f}" for s in seen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a third of the radii, one body each: only to see that it runs")
    quick = parser.parse_args().quick
    for label in CHI_PPM:
        shipped, rows = SEEN[label], measure(label, quick)
        print(f"\n{label}: shipped", *(f"{v:.3f}" for v in astuple(shipped)), " fitted now", end=" ")
        print(*(f"{v:.3f}" for v in astuple(fit(label, rows))), " (gain, filter, in_plane, across, least)")
        SEEN[label] = shipped
        report(label, rows)
    vein_widths()
    cavernomas()
