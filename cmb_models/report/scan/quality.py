"""Notes on a scan's quality and on what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmb_models.dataset.statistics import BRIGHT, IN_PLANE, SLICE, SPREAD, Reference, intensities, rounded_mm, sides
from cmb_models.figures.views import View
from cmb_models.volume import Volume

THICK_MM = 3.0  # the small ones among microbleeds are 2 to 3 mm across: a thicker slice shows them once, and faintly
BRAIN_MM = 110.0  # an adult brain with its cerebellum is higher: fewer do not hold all of it
NAMES = {
    IN_PLANE: ("shortest side of a voxel", "mm"),
    SLICE: ("longest side of a voxel", "mm"),
    SPREAD: ("intensities of the head, 5th to 95th percentile over the median", ""),
    BRIGHT: ("intensities of the head, 99th percentile over the median", ""),
}


@dataclass(frozen=True)
class Note:
    """A line of the quality notes. text: value or sentence. warn: whether a reader should take care."""

    name: str
    text: str
    warn: bool = False


@dataclass(frozen=True)
class Compared:
    """A quantity of the scan and its range in the training data. outside: whether it lies out of it."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    scans: int
    outside: bool


def quality_notes(volume: Volume, view: View, uses_phase: bool, warning: str, without_regions: str = "") -> list[Note]:
    """What a reader should know of the scan.

    Args:
        volume: The scan as stored.
        view: The same, in RAS+ order.
        uses_phase: Whether the release uses the phase image.
        warning: Of the result, "" for none.
        without_regions: Why findings have no regions, "" to say nothing.
    """
    voxel = " × ".join(f"{s:.2f}" for s in view.spacing_mm)
    shape = " × ".join(map(str, view.data.shape))
    thickness = rounded_mm(view.spacing_mm.max())
    height = float(np.ptp(view.box[2]) + 1) * float(view.spacing_mm[2])
    stack = view.data.shape[2] * float(view.spacing_mm[2])
    notes = [Note("warning", warning, True)] if warning else []
    notes += [
        Note("voxel size", f"{voxel} mm, {shape} voxels (right, front, top; stored as {volume.orientation})"),
        Note(
            "slice thickness",
            f"{thickness:.2f} mm" + (": a small microbleed shows in one slice only, and faintly" if thickness > THICK_MM else ""),
            thickness > THICK_MM,
        ),
        Note(
            "coverage from bottom to top",
            f"{height:.0f} mm of head in a stack of {stack:.0f} mm"
            + (": less than a whole brain; findings beyond it are not reported" if height < BRAIN_MM else ""),
            height < BRAIN_MM,
        ),
    ]
    notes.append(Note("phase image", f"{'used' if uses_phase else 'not used'} by this release"))
    return [*notes, Note("regions of the brain", without_regions, True)] if without_regions else notes


def compare(volume: Volume, training: Mapping[str, Reference]) -> list[Compared]:
    """The scan next to the lowest and highest value of the training data, of each quantity in NAMES that these have."""
    values: dict[str, float | None] = {**sides(volume.spacing_mm), **intensities(volume)}
    rows = []
    for name, (text, unit) in NAMES.items():
        value = values.get(name)
        if name in training and value is not None:
            low, high = training[name]["quantiles"][0], training[name]["quantiles"][-1]
            rows.append(Compared(text, unit, value, low, high, training[name]["scans"], not low <= value <= high))
    return rows
