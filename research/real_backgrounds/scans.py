"""Real scans without known microbleeds: complex ones, or magnitude alone, with their brain, and the SWI made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.detect.phase import LEAST_MARGIN, sign_margin
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.scanner import images
from cmb_models.volume import Volume, spacing_of, triple

GRE, GRE_FIELD_T, GRE_TE_MS = "gre_crop", 7.0, 12.0  # its last echo by its source's tests; the field is assumed from its decay
EPI, EPI_FIELD_T, EPI_TE_MS = "gbb7t", 7.0, 24.0  # the echo time is assumed: its files do not state it
# The vein mask with the same affine, whose voxels are dark in the scan. The anatomy of both scans agrees: probably one person.
EPI_SCANS = {"mean_data": "vein2", "mean_epi": "vein1"}
WINDOW_PER_MM = 64 / 200  # side of the phase filter's window over the field of view, as the phantom's protocols have it
BOX_MM = 64.0  # of the field that a lesion is simulated in: the least that the phantom allows
GENERATION = 2
BRAIN_FROM = 0.35  # of the 95th percentile: between what is dark (scalp, skull, air) and the brain
OPEN_MM = 2.5  # thinner connections of the brain to anything else are cut


@dataclass(frozen=True)
class Background:
    """A real scan in RAS+ order.

    image: (I, J, K) complex64, phase above 0 where the field is higher, or float32 magnitude alone. affine: (4, 4), index to RAS
    mm. brain: (I, J, K) bool. veins: the same, None where they are not marked. at_once: lesions in one copy of the scan.
    """

    name: str
    image: np.ndarray
    affine: np.ndarray
    brain: np.ndarray
    field_t: float
    te_ms: float
    at_once: int
    veins: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_of(self.affine)

    @property
    def brain_litres(self) -> float:
        return float(self.brain.sum() * np.prod(self.spacing_mm) / 1e6)

    @property
    def protocol(self) -> PhantomConfig:
        """The phantom's protocol with these voxels and this slab's tilt, around one lesion: an odd number of voxels each way."""
        voxels = [2 * int(np.ceil(BOX_MM / s / 2)) + 1 for s in self.spacing_mm]
        fov = triple(n * s for n, s in zip(voxels, self.spacing_mm, strict=True))
        tilt = Rotation.from_matrix(self.affine[:3, :3] / self.spacing_mm).as_euler("xyz", degrees=True)
        return PhantomConfig(
            name=self.name,
            spacing_mm=self.spacing_mm,
            fov_mm=fov,
            fov_centre_mm=(0.0, 0.0, 0.0),
            guard_mm=(0.0, 0.0, 0.0),
            oblique_deg=triple(float(t) for t in tilt),
            field_t=self.field_t,
            te_ms=self.te_ms,
            tr_ms=1000.0,  # any: relaxation is not seen in a signal of 1
            highpass_vox=round(WINDOW_PER_MM * min(fov[:2])),
            generation=GENERATION,
        )

    def volumes(self, image: np.ndarray) -> tuple[Volume, Volume | None]:
        """What the detector is given of an image like `image`: SWI and high-pass filtered phase, or the magnitude and None."""
        if not np.iscomplexobj(image):
            return Volume(image, self.affine), None
        phase = filtered_phase(image, self.protocol)
        swi = images.swi(np.abs(image), phase, self.protocol.mask_power)
        return Volume(swi, self.affine), Volume(phase, self.affine)


def filtered_phase(image: np.ndarray, config: PhantomConfig) -> np.ndarray:
    """High-pass filtered phase (I, J, K) float32 of a complex piece of a scan, which is mirrored at its faces for the filter.

    Fourier transforms wrap: without that, opposite faces of the piece would be neighbours.
    """
    wide = [(n // 2, n // 2) for n in image.shape[:2]]
    mirrored = np.pad(image, [*wide, (0, 0)], mode="symmetric")
    phase = images.highpass_phase(mirrored, config.highpass_half_width)
    return phase[tuple(slice(a, a + n) for (a, _), n in zip(wide, image.shape, strict=False))]


def read_backgrounds(data: Path) -> list[Background]:
    """The scans of the folder of real files. Raises InputError where they are missing."""
    epis = [_epi(data / EPI, scan, veins) for scan, veins in EPI_SCANS.items()]
    return [read_gre(data / GRE), *epis]


def read_gre(folder: Path) -> Background:
    """Magnitude and phase of the last echo. Its sign is that in which dark thin structures have phase above 0.

    Raises InputError for missing files, and for phase that shows no veins.
    """
    (magnitude, affine), (phase, _) = (_images(folder / name) for name in ("mag.nii.gz", "phase.nii.gz"))
    size = magnitude[..., -1].astype(np.float32)
    radians = phase[..., -1] * (np.pi / np.abs(phase).max())  # the stored numbers span one turn
    image = size * np.exp(1j * radians).astype(np.complex64)
    found = Background(GRE, image, affine, brain_of(size, affine), GRE_FIELD_T, GRE_TE_MS, 1)
    margin = sign_margin(filtered_phase(found.image, found.protocol), size, found.spacing_mm)
    if not abs(margin) >= LEAST_MARGIN:
        got = f"one that does not follow them ({margin:.2f})"
        raise InputError("phase-unusable", folder, "phase that shows the veins of its magnitude", got, "check the files")
    return found if margin > 0 else replace(found, image=np.conj(found.image))


def _epi(folder: Path, scan: str, veins: str) -> Background:
    magnitude, marked = (_ras(folder / f"{name}.nii.gz") for name in (scan, veins))
    brain = brain_of(magnitude.data, magnitude.affine)
    return Background(
        f"{EPI} {scan}", magnitude.data, magnitude.affine, brain, EPI_FIELD_T, EPI_TE_MS, 4, (marked.data > 0.5) & brain
    )


def _images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K, E) of a NIfTI file with several echoes in RAS+ order, and its affine."""
    import nibabel as nib

    _require(path)
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


def _ras(path: Path) -> Volume:
    _require(path)
    return read_volume(path).to_ras()


def _require(path: Path) -> None:
    if not path.is_file():
        raise InputError("file-not-found", path, "a real scan", "no file", "give the folder that holds the real files (--data)")


def brain_of(magnitude: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Brain (I, J, K) bool: the largest bright region after cutting thin connections, with what is dark inside it."""
    spacing = np.asarray(spacing_of(affine))
    bright = ndimage.gaussian_filter(magnitude, 0.8 / spacing, mode="nearest") > BRAIN_FROM * np.percentile(magnitude, 95)
    core = _away_mm(bright, spacing) > OPEN_MM
    labels, count = ndimage.label(core)
    if not count:
        return np.zeros(magnitude.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    grown = ndimage.distance_transform_edt(~largest, sampling=spacing) <= OPEN_MM
    beyond = ndimage.distance_transform_edt(~grown, sampling=spacing) > OPEN_MM
    closed = _away_mm(~beyond, spacing) > OPEN_MM  # with dark structures narrower than twice that
    return np.asarray(ndimage.binary_fill_holes(grown | closed))


def _away_mm(inside: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm of each voxel within a region to the nearest one outside; the scan's faces are no border."""
    if inside.all():
        return np.full(inside.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing))
