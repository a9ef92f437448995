"""A scanner's phase image in radians of one meaning: above 0 where veins are dark in the SWI, as blood and old bleeding are.

Calcium is as dark as a microbleed and of the opposite phase; only phase separates them. Files hold it unsigned with an offset or
signed, in any unit and with either sign, and their headers do not say which. So all of it is read off the images. Assumed:

- The phase is the high-pass filtered one that scanners store with an SWI, wrapped to one turn. Then noise in air, and the field
  next to it, reach both ends of the turn: the stored numbers' whole range is 2 pi. A background that was set to one number is left
  out; the brain alone still reaches 3.0 of 3.14 radians (simulated scans). Radians are a unit like any other.
- Tissue as a whole has no phase: the direction it has on average is the offset.
- The SWI was darkened by this very phase: where it has thin dark structures, most of them veins, the phase is that of veins.
"""

from __future__ import annotations

import math

import numpy as np

from cmb_models.arrays import NUMPY, Array, Arrays
from cmb_models.errors import InputError
from cmb_models.volume import Volume, corners_apart_mm

SAME_PLACE_MM = 0.1  # corners of two images of one grid differ by less: headers are rounded
BACKGROUND = 0.2  # share of voxels with one and the same number from which they are air that was blanked; phase 0 has far fewer
WHOLE_RANGE = (0.01, 99.99)  # percentiles that span one turn: single voxels may lie beyond
MIN_MEAN_RESULTANT_LENGTH = (
    0.3  # least length of tissue's mean direction; simulated scans have .92 and more, unfiltered phase with its wraps near 0
)
THIN_MM = 5.0  # veins are narrower within slices
DARKEST = 99.0  # percentile of the filling above which a place counts as a vein
LEAST_MARGIN = 0.1  # of the sign; noise stays below .02; 105 simulated scans of three protocols and vendors have .31 to .93


def check_phase(phase: Volume, swi: Volume, case: str) -> None:
    """Raise InputError naming `case` unless `phase` can be the phase image of `swi`, both as stored: one grid, finite, varying."""
    check_same_grid(phase, swi, case)
    check_phase_voxels(phase.data, swi.data, case)


def check_same_grid(phase: Volume, swi: Volume, case: str) -> None:
    """Raise InputError naming `case` unless both images, as stored, have one shape and one place."""
    if phase.data.shape != swi.data.shape:
        got = f"one of shape {phase.data.shape} for {swi.data.shape}"
        raise InputError("phase-grid", case, "a phase image on the grid of its SWI", got, "export both from one series")
    if (away := corners_apart_mm(phase.affine, swi.affine, swi.data.shape)) > SAME_PLACE_MM:
        got = f"one that lies up to {away:.1f} mm off it"
        raise InputError("phase-grid", case, "a phase image on the grid of its SWI", got, "export both from one series")


def check_phase_voxels(phase: Array, swi: Array, case: str, arrays: Arrays = NUMPY) -> None:
    """Raise InputError naming `case` unless `phase` (I, J, K) is finite, varies and is not `swi` (I, J, K) itself."""
    bad = math.prod(phase.shape) - int(arrays.is_finite(phase).sum())
    if bad:
        raise InputError(
            "phase-not-finite", case, "a finite phase image", f"{bad} NaN or infinite voxels", "set the background to 0"
        )
    if (low := float(phase.min())) == float(phase.max()):
        raise InputError("phase-constant", case, "a phase image", f"a constant one (every voxel is {low:g})", "check the export")
    if (phase == swi).all():
        raise InputError(
            "phase-unusable", case, "a phase image in addition to the SWI", "the SWI itself twice", "pass the phase series"
        )


def unit_phasors(numbers: Array, case: str, arrays: Arrays = NUMPY) -> Array:
    """Stored numbers (I, J, K) as unit vectors exp(i phase), complex64, offset and sign as stored; 0 in a blanked background.

    Vectors, since they can be interpolated: halfway between +3 and -3 radians lies pi, not 0.
    Raises InputError naming `case` where no range is left.
    """
    blank = _background(numbers)
    low, high = arrays.percentiles(numbers[~blank], WHOLE_RANGE)
    if not low < high:
        raise InputError("phase-unusable", case, "a phase image", "one that hardly varies", "pass the phase series, not a mask")
    middle, scale = np.float32((low + high) / 2), np.float32(2 * np.pi / (high - low))
    found = arrays.phasors((numbers - float(middle)) * float(scale))
    found[blank] = 0
    return found


def _background(numbers: Array) -> Array:
    """(I, J, K) bool: voxels that were set to 0, or to the lowest number, because they are air. None in an image with noise."""
    for number in (0.0, float(numbers.min())):
        there = numbers == number
        if int(there.sum()) > BACKGROUND * math.prod(numbers.shape):
            return there
    return numbers != numbers


def resolve_offset_and_sign(
    vectors: Array, image: Array, spacing_mm: tuple[float, float, float], case: str, arrays: Arrays = NUMPY
) -> Array:
    """Phase (I, J, K) float32 in radians, -pi to pi, from `unit_phasors` brought to the grid of the normalised SWI `image`.

    Without its offset, and turned over where dark thin places would be below 0. Raises InputError naming `case` for phase that is
    no high-pass filtered one, and where neither sign fits the veins.
    """
    tissue = vectors[image > float(image.min()) / 2]  # the head's median is 0, air the lowest
    mean = complex(tissue.mean()) if len(tissue) else 0
    if abs(mean) < MIN_MEAN_RESULTANT_LENGTH:
        got = f"one that points all ways in tissue ({abs(mean):.2f} of {MIN_MEAN_RESULTANT_LENGTH:g})"
        raise InputError(
            "phase-unusable", case, "a high-pass filtered phase image", got, "pass the phase that the scanner stores with its SWI"
        )
    phase = arrays.angle(vectors * complex(np.complex64(np.conj(mean / abs(mean)))))
    phase[vectors == 0] = 0
    margin = sign_margin(phase, image, spacing_mm, arrays)
    if not abs(margin) >= LEAST_MARGIN:
        got = f"one that does not follow them (margin {margin:.2f} of {LEAST_MARGIN:g})"
        raise InputError(
            "phase-unusable", case, "phase that shows the veins of its SWI", got, "pass the phase image of this very scan"
        )
    return phase if margin > 0 else -phase


def sign_margin(phase: Array, image: Array, spacing_mm: tuple[float, float, float], arrays: Arrays = NUMPY) -> float:
    """How clearly dark thin places have phase above 0: mean over mean size of its sine there, -1 to 1; NaN where there are none.

    phase, image: (I, J, K), radians and normalised SWI. A closing fills what is dark and thinner than THIN_MM within its slice; the
    highest hundredth of what it fills counts. The sine makes little of wrapped phase.
    """
    within = [max(3, round(THIN_MM / s)) for s in spacing_mm[:2]]
    filled = arrays.closed(image, (*within, 1)) - image
    (darkest,) = arrays.percentiles(filled, [DARKEST])
    sine = arrays.sine(phase[filled > darkest])
    size = float(abs(sine).mean()) if len(sine) else 0.0
    return float(sine.mean()) / size if size else math.nan
