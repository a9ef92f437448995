"""Simulated SWI scans of one subject, at one time point or several, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.transform import RigidTransform, Rotation

from cmb_models import __version__
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.grid import average, resample, smooth_noise
from cmb_models.phantom.head.anatomy import build_head
from cmb_models.phantom.head.contrast import HEMATOCRIT, WHITE_SIGNAL, blood_signal
from cmb_models.phantom.lesions.lesion import Lesion, add_lesion, lesion_mask
from cmb_models.phantom.lesions.surroundings import Surroundings
from cmb_models.phantom.scanner import acquisition, images
from cmb_models.phantom.scanner.field import dipole_field, shim
from cmb_models.phantom.scanner.slab import Slab, SlabWarp, make_slab
from cmb_models.phantom.subject import Head, Subject, draw_head, draw_lesions
from cmb_models.phantom.veins.raster import vein_fraction
from cmb_models.volume import Volume

MAX_CMBS = 60  # per scan: beyond, they no longer keep apart
BLOOD_CHI_PPM = 3.39 * HEMATOCRIT  # venous susceptibility over 1 - oxygenation: docs/explanation/phantom.md
REPOSITIONED = (2.0, 3.0)  # degrees and mm, standard deviations of the head in the scanner between two visits: assumed
LAID = (1.5, 2.0)  # and of the slab on the head: assumed
BIAS_STEP_MM = 70.0  # between nodes of the coil's sensitivity
VEIN_SHARE = 0.25  # a voxel with this much blood is marked as vein
RATER = "phantom"


@dataclass(frozen=True)
class SimulatedScan:
    """One time point, all images on one grid, axes flipped as the vendor stores them.

    swi, magnitude, minip: whole numbers from 0. phase: high-passed, whole numbers of truth["phase"]["radians_per_unit"], positive
    times its "sign" where the field is higher. brain_mask, vein_mask: 0 or 1. cmb_mask, mimic_mask: n + 1 in the n-th
    microbleed or mimic of the annotations, else 0.
    """

    swi: Volume
    phase: Volume
    magnitude: Volume
    minip: Volume
    brain_mask: Volume
    cmb_mask: Volume
    mimic_mask: Volume
    vein_mask: Volume
    annotations: tuple[Annotation, ...]
    truth: dict


def simulate_scan(
    seed: int | np.random.SeedSequence, n_cmbs: int, config: PhantomConfig | None = None, subject: str = "sub-001"
) -> SimulatedScan:
    """Simulate a subject at one time point, with exactly n_cmbs microbleeds, 0 to MAX_CMBS. Arguments as `simulate_subject`."""
    return simulate_subject(seed, (n_cmbs,), config, subject)[0]


def simulate_subject(
    seed: int | np.random.SeedSequence,
    n_cmbs: Sequence[int],
    config: PhantomConfig | None = None,
    subject: str = "sub-001",
    calcifications: int = 0,
) -> list[SimulatedScan]:
    """Simulate a subject at one or more time points.

    Position of head and slab, noise, motion, coil sensitivity and gain differ between time points; the protocol does not. The same
    seed gives the same scans, up to rounding on other processors.

    n_cmbs: microbleeds at each time point, 0 to MAX_CMBS, not decreasing. calcifications: additional ones in white matter or
    cortex, as far as there is room. Raises InputError for numbers out of range.
    """
    _check_counts(n_cmbs)
    number = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not isinstance(seed, np.random.SeedSequence) and not (number and seed >= 0):
        raise InputError("phantom-setting", "phantom seed", "a whole number of 0 or more", repr(seed), "give another seed")
    config = config or PhantomConfig()
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(int(seed))
    person, *visits = np.random.SeedSequence(root.entropy, spawn_key=root.spawn_key).spawn(1 + len(n_cmbs))
    randoms = [np.random.default_rng(v) for v in visits]
    slabs = [make_slab(config)] + [make_slab(config, _off(rng, *REPOSITIONED), _off(rng, *LAID)) for rng in randoms[1:]]
    head_seed, vein_seed, cmb_seed, mimic_seed = person.spawn(4)
    head = draw_head(head_seed, vein_seed, config.generation)
    first = _bare(head, slabs[0])
    shows = _surroundings(first, slabs[0]).show if n_cmbs[-1] else None
    drawn = draw_lesions(cmb_seed, mimic_seed, head, n_cmbs, slabs, shows, calcifications)
    return [
        _time_point(rng, drawn, slab, n, (subject, session), _bare(head, slab) if visit else first)
        for visit, (n, slab, rng, session) in enumerate(zip(n_cmbs, slabs, randoms, session_names(len(slabs)), strict=True))
    ]


def golden_scan(seed: int = 0) -> tuple[Volume, Volume, np.ndarray]:
    """A small SWI (96 x 96 x 40 voxels), its phase, and the centres (3, 3) of its three microbleeds in scanner RAS mm."""
    scan = simulate_scan(seed, 3, PhantomConfig.small())
    return scan.swi, scan.phase, np.array([a.centre_mm for a in scan.annotations if a.is_cmb])


def _check_counts(n_cmbs: Sequence[int]) -> None:
    for n in n_cmbs:
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= MAX_CMBS:
            expected, remedy = f"0 to {MAX_CMBS} microbleeds", "give a whole number, or spread them over more scans"
            raise InputError("phantom-setting", "phantom scan", expected, repr(n), remedy)
    if not n_cmbs or list(n_cmbs) != sorted(n_cmbs):
        raise InputError(
            "phantom-setting",
            "phantom time points",
            "one or more, none with fewer microbleeds than before",
            str(n_cmbs),
            "sort them",
        )


def session_names(visits: int) -> tuple[str, ...]:
    """Names of a subject's time points; one empty name when there is but one."""
    return tuple(f"ses-{n:02d}" for n in range(1, visits + 1)) if visits > 1 else ("",)


def _off(rng: np.random.Generator, degrees: float, mm: float) -> RigidTransform:
    """A small turn and shift with these standard deviations."""
    turn = Rotation.from_rotvec(rng.normal(0, degrees / np.sqrt(3), 3), degrees=True)
    return RigidTransform.from_components(rng.normal(0, mm / np.sqrt(3), 3), turn)


@dataclass(frozen=True)
class _Bare:
    """A head in a slab before any lesion, all on slab.fine: complex signal at the echo, brain_mm, share of vein in each voxel."""

    signal: np.ndarray
    brain_mm: np.ndarray
    vein_share: np.ndarray


def _time_point(
    rng: np.random.Generator, subject: Subject, slab: Slab, n_cmbs: int, name: tuple[str, str], bare: _Bare
) -> SimulatedScan:
    """What the scanner makes of the subject's first n_cmbs microbleeds and its mimics; bare.signal is used up."""
    cmbs, mimics = subject.cmbs[:n_cmbs], subject.mimics
    for lesion in (*cmbs, *mimics):
        add_lesion(bare.signal, slab, lesion)
    grid, affine, config = slab.kept_grid, slab.affine(), slab.config
    brain_mm = resample(bare.brain_mm, slab.fine, grid)
    inside = None if config.stripped_mm is None else brain_mm < config.stripped_mm
    swi, phase, magnitude, gain = _acquire(rng, bare.signal, slab, inside)
    arrays = {
        "swi": swi,
        "phase": phase,
        "magnitude": magnitude,
        "minip": images.minimum_projection(swi, config.spacing_mm[2]),
        "brain_mask": brain_mm < 0,
        "cmb_mask": lesion_mask(cmbs, slab),
        "mimic_mask": lesion_mask(mimics, slab),
        "vein_mask": average(bare.vein_share, slab.fine, grid) > VEIN_SHARE,
    }
    volumes = {k: images.stored(np.asarray(v, np.float32), affine, config.orientation) for k, v in arrays.items()}
    rows = tuple(_annotation(lesion, slab, *name) for lesion in (*cmbs, *mimics))
    return SimulatedScan(**volumes, annotations=rows, truth=_truth(subject, slab, cmbs, gain))


def _bare(subject: Head, slab: Slab) -> _Bare:
    config, warp = slab.config, SlabWarp(subject.warp, slab)
    share = vein_fraction(subject.veins, warp, slab.fine)
    head = build_head(subject.traits, subject.template, warp, slab.fine, config)
    chi, magnitude = head.chi_ppm, head.signal
    chi += share * (np.float32(BLOOD_CHI_PPM * (1 - subject.oxygenation)) - chi)
    magnitude += share * (np.float32(blood_signal(subject.oxygenation, config)) - magnitude)
    field = shim(dipole_field(chi, slab.fine.spacing_mm, slab.b0), head.brain_mm < 0)
    field *= np.float32(config.radians_per_ppm)
    return _Bare(acquisition.complex_signal(magnitude, field), head.brain_mm, share)


def _surroundings(bare: _Bare, slab: Slab) -> Surroundings:
    """What surrounds each place in the slab's SWI, as a scanner without noise, motion or coil would show it."""
    config = slab.config
    image = acquisition.cut_kspace(bare.signal, slab.acquired.shape)
    phase = images.highpass_phase(image, config.highpass_half_width)[slab.kept]
    swi = images.swi(np.abs(image[slab.kept]), phase, config.mask_power)
    return Surroundings(swi, resample(bare.brain_mm, slab.fine, slab.kept_grid) < 0, slab)


def _acquire(
    rng: np.random.Generator, signal: np.ndarray, slab: Slab, inside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """SWI, phase and magnitude as the vendor's numbers, (I, J, K) float32 without the guards, and the numbers per signal.

    inside: bool (I, J, K), outside of which there is no signal and no phase; None for everywhere.
    """
    config = slab.config
    shape = slab.acquired.shape
    sensitivity = smooth_noise(rng, slab.fine, BIAS_STEP_MM)
    sensitivity *= np.float32(config.bias)
    signal *= np.exp(sensitivity, out=sensitivity)
    drift = acquisition.draw_drift_mm(rng, shape[1], config.motion_mm) / config.spacing_mm[1:]
    image = acquisition.scan_signal(rng, signal, shape, WHITE_SIGNAL / config.snr, config.resolved, drift)
    phase = images.highpass_phase(image, config.highpass_half_width)[slab.kept]
    magnitude = np.abs(image[slab.kept])
    habits = config.vendor_habits
    gain = float(rng.uniform(*habits.swi_level)) / WHITE_SIGNAL
    magnitude *= np.float32(gain)
    if inside is not None:
        magnitude *= inside
        phase = phase * inside
    swi = images.swi(magnitude, phase, config.mask_power)
    stored = (np.clip(np.rint(image), 0, habits.swi_max) for image in (swi, magnitude))
    swi, magnitude = stored
    return swi, images.phase_numbers(phase, config), magnitude, gain


def _annotation(lesion: Lesion, slab: Slab, subject: str, session: str) -> Annotation:
    x, y, z = (float(v) for v in slab.world_from_head(np.array([lesion.centre_mm]))[0])
    return Annotation(subject, session, x, y, z, lesion.diameter_mm, lesion.label, RATER, lesion.region)


def _truth(subject: Subject, slab: Slab, cmbs: Sequence[Lesion], gain: float) -> dict:
    """The settings, the subject's traits and lesions, and what the images are read by, as plain JSON."""
    habits = slab.config.vendor_habits
    return {
        "version": __version__,
        "config": slab.config.as_json(),
        "phase": {"sign": habits.phase_sign, "radians_per_unit": habits.phase_unit},
        "numbers_per_signal": gain,
        "head_to_world": (slab.to_world * slab.to_head.inv()).as_matrix().tolist(),
        "traits": asdict(subject.traits),
        "veins": subject.veins.drawn | {"oxygenation": subject.oxygenation},
        "lesions": [asdict(lesion) for lesion in (*cmbs, *subject.mimics)],
    }
