"""Protocols to simulate: named after real ones, and one that is drawn at random for every scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cmb_models.errors import InputError
from cmb_models.phantom.config import ORIENTATIONS, VENDORS, PhantomConfig, check_spacing
from cmb_models.volume import triple

MIXED = ("ukb", "aibl", "clinical")  # what a dataset is made of when no preset is named
FOV_MM, CENTRE_MM = (200.0, 230.0), (0.0, -17.0, 12.0)  # in plane; the whole brain, MNI mm
RANDOM_TE_MS = {1.5: (22.0, 40.0), 3.0: (14.0, 30.0), 7.0: (10.0, 18.0)}  # usual SWI echo times by field: assumed
RANDOM_STRIPPED, RANDOM_STRIPPED_MM = 0.35, (-0.5, 2.0)  # share of brain-extracted scans, and PhantomConfig.stripped_mm: assumed
RANDOM_FIELD_SHARE = {1.5: 0.35, 3.0: 0.55, 7.0: 0.10}  # assumed


def draw_config(
    preset: str,
    rng: np.random.Generator,
    spacing_mm: tuple[float, float, float] | None = None,
    te_ms: float | None = None,
    field_t: float | None = None,
    generation: int | None = None,
) -> PhantomConfig:
    """The settings of one scan by this preset's protocol: its fixed figures, and its spread of noise, tilt and motion.

    spacing_mm, te_ms, field_t, generation: instead of the protocol's; the field of view is kept to whole voxels, and the time
    between echo and next pulse stays. Raises InputError for an unknown name and impossible figures.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError("phantom-setting", "phantom preset", " or ".join(PRESETS), repr(preset), "choose one of them")
    config = PRESETS[preset](rng)
    if spacing_mm is not None:
        check_spacing(spacing_mm)
        voxels = [2 * round(f / s / 2) for f, s in zip(config.fov_mm, spacing_mm, strict=True)]
        fov = triple(n * s for n, s in zip(voxels, spacing_mm, strict=True))
        window = min(config.highpass_vox, *voxels[:2])
        config = replace(config, spacing_mm=triple(spacing_mm), fov_mm=fov, highpass_vox=window)
    if te_ms is not None:
        config = replace(config, te_ms=te_ms, tr_ms=config.tr_ms - config.te_ms + te_ms)
    config = config if field_t is None else replace(config, field_t=field_t)
    config = config if generation is None else replace(config, generation=generation)
    # Drawn last, and not in generation 1, whose scans stay as they were.
    return replace(config, stripped_mm=_margin_mm(rng)) if preset == "random" and config.generation > 1 else config


def _small(rng: np.random.Generator) -> PhantomConfig:
    return PhantomConfig.small()


def _plain(rng: np.random.Generator) -> PhantomConfig:
    return PhantomConfig(snr=20 * float(rng.uniform(0.7, 1.4)), te_ms=20 * float(rng.uniform(0.9, 1.1)))


def _ukb(rng: np.random.Generator) -> PhantomConfig:
    """UK Biobank's: 0.8 x 0.8 x 3 mm, 3 T, second echo of 20 ms; 256 x 288 x 48 voxels, TR 27 ms, 15 degrees."""
    return PhantomConfig(
        name="ukb",
        **_box((0.8, 0.8, 3.0), 144.0, (204.8, 230.4)),
        tr_ms=27.0,
        oblique_deg=_tilt(rng, 4.0),
        snr=float(rng.uniform(14, 24)),
        resolved=(1.0, 0.9, 1.0),
        highpass_vox=64,
        bias=float(rng.uniform(0.08, 0.2)),
        motion_mm=_motion(rng, 0.3),
        orientation="LAS",
    )


def _aibl(rng: np.random.Generator) -> PhantomConfig:
    """AIBL's: 0.94 x 0.94 x 1.75 mm, 3 T, 20 ms."""
    return PhantomConfig(
        name="aibl",
        **_box((0.9375, 0.9375, 1.75), 147.0),
        flip_deg=20.0,
        oblique_deg=_tilt(rng, 6.0),
        snr=float(rng.uniform(14, 26)),
        resolved=(1.0, 0.95, 0.9),
        highpass_vox=64,
        bias=float(rng.uniform(0.06, 0.16)),
        motion_mm=_motion(rng, 0.3),
        orientation="LPS",
    )


def _clinical(rng: np.random.Generator) -> PhantomConfig:
    """A thick-slice clinical routine: 0.9 x 0.9 x 4 mm at 1.5 T, tilted to the skull base, the vertex now and then left out."""
    return PhantomConfig(
        name="clinical",
        **_box((0.9, 0.9, 4.0), float(4 * rng.integers(31, 37))),
        oblique_deg=(float(rng.normal(-10, 6)), *_tilt(rng, 3.0)[1:]),
        field_t=1.5,
        te_ms=40.0,
        tr_ms=49.0,
        snr=float(rng.uniform(12, 22)),
        resolved=(1.0, 0.8, 1.0),
        highpass_vox=96,
        bias=float(rng.uniform(0.05, 0.15)),
        motion_mm=_motion(rng, 0.6),
        vendor=str(rng.choice(("ge_like", "philips_like"))),
        orientation=str(rng.choice(("LPS", "RAS"))),
    )


def _7t(rng: np.random.Generator) -> PhantomConfig:
    """A 7 T slab of 100 mm: 0.5 x 0.5 x 1 mm, 15 ms, with the strong sensitivity changes of that field (figures assumed)."""
    return PhantomConfig(
        name="7t",
        **_box((0.5, 0.5, 1.0), 100.0, (190.0, 220.0), z_mm=float(rng.uniform(18, 32))),
        oblique_deg=_tilt(rng, 6.0),
        field_t=7.0,
        te_ms=15.0,
        tr_ms=24.0,
        flip_deg=12.0,
        snr=float(rng.uniform(12, 22)),
        highpass_vox=96,
        bias=float(rng.uniform(0.2, 0.35)),
        motion_mm=_motion(rng, 0.3),
        orientation="LPS",
    )


def _random(rng: np.random.Generator) -> PhantomConfig:
    """Anything within what sites do: field, echo time, voxels, coverage, tilt, noise, filter, vendor, orientation.

    From generation 2 on, some scans are brain-extracted.
    """
    field = float(rng.choice(list(RANDOM_FIELD_SHARE), p=list(RANDOM_FIELD_SHARE.values())))
    echo = float(rng.uniform(*RANDOM_TE_MS[field]))
    plane = round(float(np.exp(rng.uniform(np.log(0.45), 0.0))), 3)
    thick = round(float(np.exp(rng.uniform(0.0, np.log(4.0)))), 2)
    return PhantomConfig(
        name="random",
        **_box((plane, plane, thick), float(rng.uniform(90, 160)), z_mm=float(rng.uniform(5, 22))),
        oblique_deg=(float(rng.normal(0, 12)), *_tilt(rng, 5.0)[1:]),
        field_t=field,
        te_ms=echo,
        tr_ms=echo + float(rng.uniform(7, 20)),
        flip_deg=float(rng.uniform(10, 20)),
        snr=float(np.exp(rng.uniform(np.log(8), np.log(35)))),
        resolved=(1.0, float(rng.uniform(0.7, 1.0)), float(rng.uniform(0.8, 1.0))),
        highpass_vox=int(rng.choice((32, 64, 96))),
        mask_power=int(rng.choice((3, 4, 5))),
        bias=float(rng.uniform(0.03, 0.35)),
        motion_mm=_motion(rng, 0.8),
        vendor=str(rng.choice(list(VENDORS))),
        orientation=str(rng.choice(ORIENTATIONS)),
    )


def _margin_mm(rng: np.random.Generator) -> float | None:
    """PhantomConfig.stripped_mm of a random protocol."""
    margin = float(rng.uniform(*RANDOM_STRIPPED_MM))
    return margin if rng.random() < RANDOM_STRIPPED else None


PRESETS: dict[str, Callable[[np.random.Generator], PhantomConfig]] = {
    "ukb": _ukb,
    "aibl": _aibl,
    "clinical": _clinical,
    "7t": _7t,
    "random": _random,
    "plain": _plain,
    "small": _small,
}


def _box(spacing, coverage_mm: float, plane_mm: tuple[float, float] = FOV_MM, z_mm: float = CENTRE_MM[2]) -> dict:
    """Whole voxels, even in number along x and y, that cover about this much."""
    fov = [2 * round(f / s / 2) * s for f, s in zip(plane_mm, spacing[:2], strict=True)]
    return {
        "spacing_mm": spacing,
        "fov_mm": (*fov, round(coverage_mm / spacing[2]) * spacing[2]),
        "fov_centre_mm": (*CENTRE_MM[:2], z_mm),
    }


def _tilt(rng: np.random.Generator, degrees: float) -> tuple[float, float, float]:
    """Degrees about x, y, z: slices are aligned by eye, mostly tilted about x."""
    x, y, z = rng.normal(0, [degrees, degrees / 3, degrees / 3])
    return float(x), float(y), float(z)


def _motion(rng: np.random.Generator, usual_mm: float) -> float:
    """Most patients lie still, some drift: exponential, at most 2 mm."""
    return float(min(rng.exponential(usual_mm), 2.0))
