"""How one scan is made: acquisition, field of view, and the scanner's habits when it stores images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cmb_models.errors import InputError

GAMMA_RAD_PER_S_T = 2 * math.pi * 42.577e6  # proton gyromagnetic ratio (CODATA 2018)
SMALLEST_CMB_MM = (1.4, 2.0)  # 5th percentile of 957 marked ones, and the definition's lower end


@dataclass(frozen=True)
class Vendor:
    """How a scanner's images look as files. phase_sign: of a positive field shift. phase_unit: radians per stored number.

    swi_level: what white matter is stored as, lowest and highest. swi_max: the largest number stored.
    """

    phase_sign: int
    phase_unit: float
    swi_level: tuple[float, float]
    swi_max: int


# Handedness and ranges as such files commonly come out of DICOM converters: assumed; a reader of phase must not trust the sign.
VENDORS = {
    "siemens_like": Vendor(1, math.pi / 4096, (350, 900), 4095),
    "ge_like": Vendor(-1, 1e-3, (1500, 5000), 32767),
    "philips_like": Vendor(1, math.pi / 2048, (500, 1500), 4095),
}
ORIENTATIONS = ("RAS", "LAS", "LPS")
GENERATIONS = (1, 2)
SPACING_MM = (0.4, 6.0)
MOST_VOXELS = 40e6  # 3 GB of memory: benchmarks/phantom_speed.py
LIMITS = {  # name: lowest, highest
    "field_t": (0.5, 10.5),
    "te_ms": (5.0, 60.0),
    "tr_ms": (10.0, 2000.0),
    "flip_deg": (3.0, 90.0),
    "snr": (3.0, 1e6),
    "mask_power": (0, 8),
    "bias": (0.0, 0.6),
    "motion_mm": (0.0, 3.0),
    "fine_mm": (0.25, 1.0),
}
STRIPPED_MM = (-3.0, 10.0)


@dataclass(frozen=True)
class PhantomConfig:
    """Protocol of one simulated scan. Raises InputError for values outside LIMITS or inconsistent ones.

    spacing_mm, fov_mm, guard_mm: along x, y, z of the slab. fov_centre_mm: head mm. oblique_deg: turn of the slab about x, y, z
    against the scanner, whose field points along its z. guard_mm: at least this is simulated on either side of the field of view
    and cut off, since Fourier transforms wrap. snr: white matter over noise in the magnitude. resolved: share of k-space that is
    sampled along x, y, z, the rest being filled with zeros. highpass_vox: side of the phase filter's window in k-space (Haacke
    2009 uses 32 to 96). bias: log-standard deviation of the coil's sensitivity. motion_mm: how far the head drifts. fine_mm:
    largest step of the grid that is simulated on. generation: of the model; 1: the template's blurred cortex and
    strongly susceptible microbleeds, 2: a folded cortex of each subject's own and microbleeds as dark as real ones. stripped_mm:
    images are 0 from this distance outside the brain, or inside it if negative, as after brain extraction; None: the whole head.
    """

    name: str = "plain"
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0)
    fov_mm: tuple[float, float, float] = (192.0, 224.0, 176.0)
    fov_centre_mm: tuple[float, float, float] = (0.0, -17.0, 15.0)
    guard_mm: tuple[float, float, float] = (0.0, 0.0, 8.0)
    oblique_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    field_t: float = 3.0
    te_ms: float = 20.0
    tr_ms: float = 28.0
    flip_deg: float = 15.0
    snr: float = 20.0
    resolved: tuple[float, float, float] = (1.0, 1.0, 1.0)
    highpass_vox: int = 64
    mask_power: int = 4
    bias: float = 0.12
    motion_mm: float = 0.0
    vendor: str = "siemens_like"
    orientation: str = "RAS"
    fine_mm: float = 1.0
    generation: int = 1
    stripped_mm: float | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError("phantom-setting", f"phantom {name}", f"{low:g} to {high:g}", str(value), "choose a value within")
        if self.tr_ms <= self.te_ms:
            raise InputError(
                "phantom-setting",
                "phantom tr_ms",
                f"more than te_ms, {self.te_ms:g}",
                f"{self.tr_ms:g}",
                "lengthen it or shorten te_ms",
            )
        for name, known in (("vendor", tuple(VENDORS)), ("orientation", ORIENTATIONS)):
            if getattr(self, name) not in known:
                raise InputError(
                    "phantom-setting", f"phantom {name}", " or ".join(known), repr(getattr(self, name)), "choose one of them"
                )
        if self.generation not in GENERATIONS:
            raise InputError("phantom-setting", "phantom generation", "1 or 2", repr(self.generation), "choose one of them")
        low, high = STRIPPED_MM
        if self.stripped_mm is not None and not low <= self.stripped_mm <= high:
            got = str(self.stripped_mm)
            raise InputError(
                "phantom-setting", "phantom stripped_mm", f"{low:g} to {high:g}, or None", got, "choose a value within"
            )
        check_spacing(self.spacing_mm)
        if not all(0.5 <= r <= 1 for r in self.resolved):
            raise InputError(
                "phantom-setting", "phantom resolved", "shares of 0.5 to 1", str(self.resolved), "choose larger shares"
            )
        if not all(abs(d) <= 45 for d in self.oblique_deg):
            raise InputError(
                "phantom-setting", "phantom oblique_deg", "-45 to 45 degrees", str(self.oblique_deg), "turn the slab less"
            )
        self._check_fov()
        if not 8 <= self.highpass_vox <= min(self.shape[:2]):
            got = str(self.highpass_vox)
            raise InputError(
                "phantom-setting",
                "phantom highpass_vox",
                f"8 to {min(self.shape[:2])}, the image's side",
                got,
                "choose another window",
            )

    def _check_fov(self) -> None:
        if not all(abs(c) <= 150 for c in self.fov_centre_mm):
            got = str(self.fov_centre_mm)
            raise InputError(
                "phantom-setting", "phantom fov_centre_mm", "within 150 mm of the head's middle", got, "move the field of view"
            )
        for fov, guard, step in zip(self.fov_mm, self.guard_mm, self.spacing_mm, strict=True):
            if not 64 <= fov <= 320 or not 0 <= guard <= 40 or abs(fov / step - round(fov / step)) > 1e-6:
                raise InputError(
                    "phantom-setting",
                    "phantom fov_mm and guard_mm",
                    "whole voxels, a field of view of 64 to 320 mm, and guards of 0 to 40 mm",
                    f"{self.fov_mm} and {self.guard_mm} at {self.spacing_mm}",
                    "choose multiples of spacing_mm",
                )
        voxels = math.prod(self.shape)
        if voxels > MOST_VOXELS:
            got = f"{voxels / 1e6:.0f} million at {self.spacing_mm}"
            raise InputError(
                "phantom-setting",
                "phantom spacing_mm",
                f"at most {MOST_VOXELS / 1e6:.0f} million voxels",
                got,
                "choose larger ones",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the scan along x, y, z of the slab."""
        i, j, k = (round(f / s) if s > 0 else 0 for f, s in zip(self.fov_mm, self.spacing_mm, strict=True))
        return i, j, k

    @property
    def guard_vox(self) -> tuple[int, int, int]:
        """Whole voxels of guard on either side."""
        i, j, k = (math.ceil(g / s - 1e-6) for g, s in zip(self.guard_mm, self.spacing_mm, strict=True))
        return i, j, k

    @property
    def vendor_habits(self) -> Vendor:
        """How the named vendor stores images."""
        return VENDORS[self.vendor]

    @property
    def radians_per_ppm(self) -> float:
        """Phase gained until the echo for a field shift of 1 ppm."""
        return phase_per_ppm(self.field_t, self.te_ms)

    @property
    def highpass_half_width(self) -> tuple[float, float]:
        """Where the phase filter's window ends along i and j, in cycles per voxel (images.highpass_phase)."""
        i, j = (self.highpass_vox / 2 / n for n in self.shape[:2])
        return i, j

    @property
    def smallest_cmb_mm(self) -> float:
        """Least diameter of a microbleed that a reader would mark: two voxels in plane, within SMALLEST_CMB_MM."""
        return float(np.clip(2 * max(self.spacing_mm[:2]), *SMALLEST_CMB_MM))

    @classmethod
    def small(cls) -> PhantomConfig:
        """A 96 x 96 x 40 voxel piece of one hemisphere with its skull, at full resolution: for tests and golden scans."""
        return cls(
            name="small",
            fov_mm=(96.0, 96.0, 80.0),
            fov_centre_mm=(40.0, -16.0, 22.0),
            guard_mm=(12.0, 12.0, 12.0),
            highpass_vox=30,  # the window that 64 is for a whole head
        )

    def as_json(self) -> dict:
        """As JSON gives it back."""
        return plain_json(asdict(self))

    @classmethod
    def from_json(cls, values: dict) -> PhantomConfig:
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


def plain_json(values: dict) -> dict:
    """Settings as JSON gives them back: tuples are lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def check_spacing(spacing_mm: tuple[float, float, float]) -> None:
    """Refuse voxel sizes that no scanner makes, NaN among them, by InputError."""
    low, high = SPACING_MM
    if not all(low <= s <= high for s in spacing_mm):
        raise InputError(
            "phantom-setting", "phantom spacing_mm", f"{low:g} to {high:g} mm", str(spacing_mm), "choose a usual voxel size"
        )


def phase_per_ppm(field_t: float, te_ms: float) -> float:
    """Radians gained until the echo for a field shift of 1 ppm."""
    return GAMMA_RAD_PER_S_T * field_t * 1e-6 * te_ms * 1e-3
