"""What a simulated scan is made with: acquisition, field of view, and how far each scan may stray from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cmb_models.errors import InputError

GAMMA_RAD_PER_S_T = 2 * math.pi * 42.577e6  # proton gyromagnetic ratio (CODATA 2018)


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of the simulator; the values drawn for a scan lie around them and are written into its truth.

    fov_mm, spacing_mm, guard_mm: along x, y, z. fov_centre_mm: MNI mm before the head is warped. guard_mm is simulated on both
    sides of the field of view and cut off, since the Fourier transforms wrap. snr: white matter over noise, in the magnitude.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0)
    fov_mm: tuple[float, float, float] = (192.0, 224.0, 176.0)
    fov_centre_mm: tuple[float, float, float] = (0.0, -17.0, 15.0)
    guard_mm: tuple[float, float, float] = (0.0, 0.0, 8.0)
    field_t: float = 3.0
    te_ms: float = 20.0
    snr: float = 20.0

    def __post_init__(self) -> None:
        for name in ("spacing_mm", "fov_mm", "field_t", "te_ms", "snr"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(v) and v > 0 for v in numbers):
                raise InputError(f"phantom {name}", "finite numbers above 0", str(value), "correct the setting")
        if min(self.spacing_mm) < 0.4 or max(self.spacing_mm) > 4:
            raise InputError("phantom spacing_mm", "0.4 to 4 mm", str(self.spacing_mm), "choose a usual voxel size")
        for fov, guard, step in zip(self.fov_mm, self.guard_mm, self.spacing_mm, strict=True):
            if fov < 64 or guard < 0 or any(abs(v / step - round(v / step)) > 1e-6 for v in (fov, guard)):
                raise InputError(
                    "phantom fov_mm and guard_mm",
                    "whole voxels, and a field of view of 64 mm or more",
                    f"{self.fov_mm} and {self.guard_mm} at {self.spacing_mm}",
                    "choose multiples of spacing_mm",
                )

    @classmethod
    def small(cls) -> PhantomConfig:
        """A 96 x 96 x 40 voxel piece of one hemisphere with its skull, at full resolution: for tests and golden scans."""
        return cls(fov_mm=(96.0, 96.0, 80.0), fov_centre_mm=(40.0, -16.0, 22.0), guard_mm=(12.0, 12.0, 12.0))


def phase_per_ppm(field_t: float, te_ms: float) -> float:
    """Radians gained until the echo for a field shift of 1 ppm."""
    return GAMMA_RAD_PER_S_T * field_t * 1e-6 * te_ms * 1e-3
