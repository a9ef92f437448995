"""One simulated SWI scan, from a seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cmb_models import __version__
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation
from cmb_models.phantom import acquisition
from cmb_models.phantom.anatomy import Head, build_head
from cmb_models.phantom.config import PhantomConfig, phase_per_ppm
from cmb_models.phantom.field import dipole_field, shim
from cmb_models.phantom.grid import Grid, acquired_grid, fine_grid, resample, smooth_noise
from cmb_models.phantom.lesions import Lesion, Placer, add_lesion, draw_cmbs, draw_mimics
from cmb_models.phantom.template import load_template
from cmb_models.phantom.veins import draw_veins, vein_fraction
from cmb_models.phantom.warp import draw_warp
from cmb_models.volume import Volume

MAX_CMBS = 60  # per scan: beyond, they no longer keep apart
BLOOD_SIGNAL = 0.32  # venous, at the echo: T2* about 20 ms at 3 T
HEMATOCRIT_PPM = 3.39 * 0.42  # venous susceptibility over 1 - oxygenation: FACTS section 3
OXYGENATION = (0.55, 0.70)  # FACTS section 3
RATER = "phantom"
SWI_MAX = 4095  # scanners store 12 bits
PHASE_STEP = 2.0**-9  # radians: about the 12 bits scanners store, and a step that float32 holds exactly


@dataclass(frozen=True)
class SimulatedScan:
    """swi: 0..4095, whole numbers. phase: high-passed, radians, positive where paramagnetic along B0. brain_mask: 0 or 1."""

    swi: Volume
    phase: Volume
    brain_mask: Volume
    annotations: tuple[Annotation, ...]
    truth: dict


def simulate_scan(
    seed: int | np.random.SeedSequence, n_cmbs: int, config: PhantomConfig | None = None, subject: str = "sub-001"
) -> SimulatedScan:
    """Simulate a scan with exactly n_cmbs microbleeds and a few mimics. Same seed, same scan."""
    if not 0 <= n_cmbs <= MAX_CMBS:
        raise InputError("phantom scan", f"0 to {MAX_CMBS} microbleeds", str(n_cmbs), "spread them over more scans")
    config = config or PhantomConfig()
    rng = np.random.default_rng(seed)
    acquired = acquired_grid(config)
    fine = fine_grid(acquired)
    te_ms = config.te_ms * float(rng.uniform(0.9, 1.1))
    snr = config.snr * float(rng.uniform(0.7, 1.4))
    oxygenation = float(rng.uniform(*OXYGENATION))
    template, warp = load_template(), draw_warp(rng, fine)
    head = build_head(rng, template, warp, fine, te_ms)
    veins = vein_fraction(draw_veins(rng, template), warp, fine)
    signal = _signal(head, veins, fine, HEMATOCRIT_PPM * (1 - oxygenation), phase_per_ppm(config.field_t, te_ms))
    placer = Placer(rng, template, warp, config, fine, veins)
    lesions = [*draw_cmbs(rng, placer, n_cmbs, config, te_ms), *draw_mimics(rng, placer, config, te_ms)]
    for lesion in lesions:
        add_lesion(rng, signal, fine, lesion, phase_per_ppm(config.field_t, te_ms))
    swi, phase = _acquire(rng, signal, acquired, snr)
    keep = tuple(slice(g, n - g) for g, n in zip(_guard(config), acquired.shape, strict=True))
    kept = Grid(swi[keep].shape, acquired.spacing_mm, tuple(acquired.axis_mm(a)[keep[a]][0] for a in range(3)))
    mask = (resample(head.brain_mm, fine, kept) < 0).astype(np.float32)
    truth = {
        "version": __version__,
        "config": asdict(config),
        "drawn": {"te_ms": te_ms, "snr": snr, "oxygenation": oxygenation, **head.drawn},
        "lesions": [asdict(lesion) for lesion in lesions],
    }
    volumes = (Volume(np.ascontiguousarray(v), kept.affine()) for v in (swi[keep], phase[keep], mask))
    return SimulatedScan(*volumes, tuple(_annotation(lesion, subject) for lesion in lesions), truth)


def golden_scan(seed: int = 0) -> tuple[Volume, np.ndarray]:
    """A 96 x 96 x 40 voxel SWI with three microbleeds, and their centres (3, 3) in RAS mm: a known answer to test with."""
    scan = simulate_scan(seed, 3, PhantomConfig.small())
    return scan.swi, np.array([a.centre_mm for a in scan.annotations if a.is_cmb])


def _guard(config: PhantomConfig) -> list[int]:
    return [round(g / s) for g, s in zip(config.guard_mm, config.spacing_mm, strict=True)]


def _signal(head: Head, veins: np.ndarray, grid: Grid, vein_ppm: float, radians_per_ppm: float) -> np.ndarray:
    """Complex signal (I, J, K) of the head with its veins at the echo, before any lesion."""
    chi = head.chi_ppm + veins * (np.float32(vein_ppm) - head.chi_ppm)
    magnitude = head.signal + veins * (np.float32(BLOOD_SIGNAL) - head.signal)
    field = shim(dipole_field(chi, grid.spacing_mm), head.brain_mm < 0)
    return acquisition.complex_signal(magnitude, field * np.float32(radians_per_ppm))


def _acquire(rng: np.random.Generator, signal: np.ndarray, acquired: Grid, snr: float) -> tuple[np.ndarray, np.ndarray]:
    """SWI in whole numbers 0..SWI_MAX and high-pass phase in radians, both (I, J, K) float32."""
    signal = acquisition.cut_kspace(signal, acquired.shape)
    signal *= np.exp(np.float32(0.12) * smooth_noise(rng, acquired, 70.0))  # coil sensitivity, some 12 %
    signal = acquisition.add_noise(rng, signal, 0.5 / snr)  # white matter signals about 0.5
    phase = acquisition.highpass_phase(signal, acquired)
    gain = rng.uniform(1000, 2400)  # white matter at 500 to 1200 of 4095
    swi = np.clip(np.rint(acquisition.swi(np.abs(signal), phase) * np.float32(gain)), 0, SWI_MAX)
    return swi, np.rint(phase / np.float32(PHASE_STEP)) * np.float32(PHASE_STEP)


def _annotation(lesion: Lesion, subject: str) -> Annotation:
    return Annotation(subject, "", *lesion.centre_mm, lesion.diameter_mm, lesion.label, RATER)
