"""Simulated lesions to insert into a site's scans: the factor that each applies to the SWI around it, by the phantom's physics.

Microbleeds, and calcifications and iron spots as mimics, at the site's own voxel size. Field, echo, filters and tilt are
drawn far wider than any one protocol, so that a network learns what such lesions have in common.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_models.config.params import LesionBankSettings, Preprocess
from cmb_models.detect.preprocess import resample, resample_vectors
from cmb_models.files import atomic_write
from cmb_models.machine import worker_count
from cmb_models.phantom.config import SPACING_MM, PhantomConfig
from cmb_models.phantom.isolated_lesion import uniform_images
from cmb_models.phantom.lesions.bloom import body_radius_mm
from cmb_models.phantom.lesions.cmbs import BODY
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.lesions.mimics import CALCIUM_PPM, IRON_PPM
from cmb_models.phantom.scanner.slab import make_slab
from cmb_models.training.synthesis.insertion import LesionBank
from cmb_models.training.validation.progress_count import count_step
from cmb_models.volume import Volume, index_from_world, triple

if TYPE_CHECKING:
    from cmb_models.training.validation.pool import TrainingPool

Size = tuple[float, float, float]
Box = tuple[Size, Preprocess, tuple[int, int, int]]  # voxel size, settings, seed
SHARE = {"cmb": 0.6, "mimic:calcification": 0.25, "mimic:iron": 0.15}  # of the synthetic lesions: microbleeds vary most
MIMIC_PPM = {"mimic:calcification": CALCIUM_PPM, "mimic:iron": IRON_PPM}
# As seen; log-uniform, not as rare as large ones are (95 % of marked ones are below 4.8 mm), or none is learned.
CMB_MM = (1.6, 8.0)
MIMIC_MM = (1.8, 5.5)  # log-uniform; the sizes at which they resemble microbleeds
FIELD_TE_MS = {1.5: (22.0, 42.0), 3.0: (15.0, 28.0)}  # usual echo times of SWI by field
WINDOW_PER_MM = (0.28, 0.5)  # side of the phase filter's window over the field of view: 64 over 230 mm to 96 over 192 mm
TILT_DEG = (10.0, 5.0, 3.0)  # of the slab against the field, standard deviations
RESOLVED = 0.8  # least share of k-space sampled along phase and slice
BOX_MM, PITCH_MM, JITTER_MM = 80.0, 24.0, 2.0  # 27 lesions a box, each at a place of its own within its voxel
HALF_MM = 11.0  # of the window that is kept: the phase of the largest has faded there
FADE_VOX = 2  # at the window's border
BOX_GB = 0.5  # of a process that simulates a box of voxels of .4 mm
SIZE_STEP_MM = 0.05  # voxel sizes that differ by less share their synthetic lesions


def lesion_bank_name(native_mm: Size) -> str:
    """File name of the synthetic lesions for scans with these voxels (RAS order)."""
    return "lesions_" + "x".join(f"{s:.2f}" for s in _rounded(native_mm)) + ".npz"


def _rounded(native_mm: Size) -> Size:
    i, j, k = (round(float(np.clip(round(s / SIZE_STEP_MM) * SIZE_STEP_MM, *SPACING_MM)), 2) for s in native_mm)
    return i, j, k


def write_lesion_bank(
    folder: Path,
    sizes: Iterable[Size],
    preprocess: Preprocess,
    settings: LesionBankSettings,
    track: Callable[[list], Iterable] = iter,
    pool: TrainingPool | None = None,
) -> None:
    """Simulate `settings.lesions` lesions in all, shared among the voxel sizes (RAS order, mm), into one file a size.

    track: a progress bar over the boxes of 27. pool: workers for them; None for processes of this machine.

    Nothing is written for no sizes or no lesions. The same settings give the same bytes on processors of one kind, whatever the
    number of processes; with preprocess.phase its phase is stored with each lesion, and the rest stays as it is.
    """
    different = sorted({_rounded(s) for s in sizes})
    if not different or not settings.lesions:
        return
    boxes = int(np.ceil(settings.lesions / 27 / len(different)))
    jobs = [(size, preprocess, (settings.seed, n, box)) for n, size in enumerate(different) for box in range(boxes)]
    made = pool.map(_box, jobs, len(jobs), "simulate the lesion bank") if pool else _by_processes(jobs, track)
    for n, size in enumerate(different):
        parts = made[n * boxes : (n + 1) * boxes]
        with atomic_write(folder / lesion_bank_name(size)) as temporary, temporary.open("wb") as stream:
            names = [name for name, array in vars(parts[0]).items() if array is not None]
            arrays: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
            np.savez_compressed(stream, **arrays)


def _by_processes(jobs: list[Box], track: Callable[[list], Iterable]) -> list[LesionBank]:
    # Spawned, since the caller may have threads (its progress bar has): a fork could hold their locks forever.
    with ProcessPoolExecutor(worker_count(len(jobs), BOX_GB), multiprocessing.get_context("spawn")) as processes:
        return [made for _, made in zip(track(jobs), processes.map(_box, jobs), strict=True)]


def _box(job: Box) -> LesionBank:
    """One simulated box of lesions far apart, cut into their windows on the working grid."""
    native_mm, preprocess, seed = job
    rng = np.random.default_rng(seed)
    slab = make_slab(_config(native_mm, rng))
    at = (np.arange(3) - 1) * PITCH_MM
    places = np.stack(np.meshgrid(at, at, at, indexing="ij"), -1).reshape(-1, 3)
    places = places + rng.uniform(-JITTER_MM, JITTER_MM, places.shape)
    labels = rng.choice(list(SHARE), len(places), p=list(SHARE.values()))
    lesions = [_lesion(rng, str(n), tuple(slab.to_head.apply(p)), slab.config) for n, p in zip(labels, places, strict=True)]
    swi, phase = (Volume(image, slab.acquired.affine()) for image in uniform_images(slab, lesions))
    seen = resample(swi, preprocess.spacing_mm)
    index = index_from_world(places, seen.affine)
    whole = [n for n, i in enumerate(index) if _holds_window(seen, i)]
    windows = np.stack([_window(seen, index[n], 1.0) for n in whole])
    diameters = np.array([lesions[n].diameter_mm for n in whole], dtype=np.float32)
    phases = None
    if preprocess.phase:
        vectors = np.exp(1j * phase.data).astype(np.complex64)
        real, imaginary = (Volume(part, phase.affine) for part in (vectors.real, vectors.imag))
        radians = Volume(np.angle(resample_vectors(real, imaginary, preprocess.spacing_mm)), seen.affine)
        phases = np.stack([_window(radians, index[n], 0.0) for n in whole])
    count_step(0)
    return LesionBank(windows, (index - np.rint(index))[whole], labels[whole], diameters, phases)


def _half_vox(seen: Volume) -> np.ndarray:
    """Half the side (3,) of the windows that are kept, in voxels."""
    return (HALF_MM / np.array(seen.spacing_mm)).astype(int)


def _holds_window(seen: Volume, index: np.ndarray) -> bool:
    """Whether the whole window around an index (3,) lies within the box."""
    half, middle = _half_vox(seen), np.rint(index).astype(int)
    return not (np.any(middle < half) or np.any(middle + half >= seen.data.shape))


def _window(seen: Volume, index: np.ndarray, far: float) -> np.ndarray:
    """What is kept around an index (3,), fading at its border to what is `far` from all lesions."""
    half, middle = _half_vox(seen), np.rint(index).astype(int)
    window = seen.data[tuple(slice(m - h, m + h + 1) for m, h in zip(middle, half, strict=True))]
    ramps = [np.clip((h - np.abs(np.arange(-h, h + 1))) / FADE_VOX, 0, 1) for h in half]
    fade = np.minimum(np.minimum(ramps[0][:, None, None], ramps[1][:, None]), ramps[2])
    return (far + (window - far) * fade).astype(np.float32)


def _config(native_mm: Size, rng: np.random.Generator) -> PhantomConfig:
    field = float(rng.choice(list(FIELD_TE_MS)))
    fov = triple(2 * int(np.ceil(BOX_MM / 2 / s)) * s for s in native_mm)
    return PhantomConfig(
        spacing_mm=native_mm,
        fov_mm=fov,
        fov_centre_mm=(0.0, 0.0, 0.0),
        guard_mm=(0.0, 0.0, 0.0),
        oblique_deg=triple(float(d) for d in np.clip(rng.normal(0, TILT_DEG), -45, 45)),
        field_t=field,
        te_ms=float(rng.uniform(*FIELD_TE_MS[field])),
        tr_ms=1000.0,  # any: relaxation is not seen in a signal of 1
        resolved=(1.0, float(rng.uniform(RESOLVED, 1)), float(rng.uniform(RESOLVED, 1))),
        highpass_vox=max(8, round(float(rng.uniform(*WINDOW_PER_MM)) * min(fov[:2]))),
    )


def _lesion(rng: np.random.Generator, label: str, head_mm: Size, config: PhantomConfig) -> Lesion:
    """A lesion of this label; half of the microbleeds have the body of each of the phantom's generations."""
    ppm, inner, factor = BODY[int(rng.choice(list(BODY)))] if label == "cmb" else (MIMIC_PPM[label], None, 1.0)
    chi = float(np.sign(ppm[0]) * np.exp(rng.uniform(*sorted(np.log(np.abs(ppm))))))
    diameter = float(np.exp(rng.uniform(*np.log(CMB_MM if label == "cmb" else MIMIC_MM))))
    radius = factor * body_radius_mm(diameter, chi, config, label)
    signal = None if inner is None else float(rng.uniform(*inner))
    return Lesion(label, "", head_mm, diameter, radius, chi, int(rng.integers(2**31)), inner_signal=signal)
