"""Label masks: every connected component is a lesion."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_models.errors import InputError
from cmb_models.importing.marks.reading import ANY, IGNORE, RAS, Mark, Options, Reading
from cmb_models.io import formats
from cmb_models.io.annotations import NONE
from cmb_models.io.nifti import SUFFIXES, read_volume
from cmb_models.volume import Volume, world_from_index

MASK = "mask"
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # 26: voxels that share a corner
SHOWN = 10  # values in a message


def read_mask(file: Path, options: Options) -> Reading:
    """Read a label mask. A mask of zeros is a reading without marks.

    Raises:
        InputError: If the file is damaged or no label mask, or the options do not say what its values mean, or name a frame: its
            header has one.
    """
    if options.frame:
        raise InputError("options-conflict", file, "no --frame for a mask", f"--frame {options.frame}", "leave it out")
    mask = read_volume(file) if file.name.lower().endswith(SUFFIXES) else formats.read_image(file)
    labels = _labels(file, mask.data, options)
    marks = [mark for value, label in labels.items() for mark in _lesions(mask, value, label)]
    ignored = [f"{value:g}" for value in np.unique(mask.data) if value and value not in labels]
    return Reading(file, MASK, tuple(marks), grid=mask, note=f"skipped: value {', '.join(ignored)}" if ignored else "")


def _labels(file: Path, data: np.ndarray, options: Options) -> dict[float, str]:
    """What each value of a mask (I, J, K) means, but those to be ignored."""
    values = [float(v) for v in np.unique(data) if v]
    if any(not v.is_integer() for v in values):
        got, remedy = "other numbers", "pass the mask, not the image or a map of probabilities"
        raise InputError("marks-form", file, "a label mask of whole numbers", got, remedy)
    if not options.labels and len(values) > 1:
        listed = ", ".join(f"{v:g}" for v in values[:SHOWN]) + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
        remedy = "pass --label VALUE=cmb, possible, mimic:<kind> or ignore for each"
        raise InputError("marks-option", file, "a meaning for each of its values", f"values {listed}", remedy)
    others = options.labels.get(ANY, "") if options.labels else "cmb"
    found = {v: options.labels.get(f"{v:g}", others) for v in values}
    if unknown := [f"{v:g}" for v, label in found.items() if label in ("", NONE)]:
        got = f"none for {', '.join(unknown[:SHOWN])}"
        remedy = f"pass --label {unknown[0]}=cmb, possible, mimic:<kind> or ignore"
        raise InputError("marks-option", file, "a meaning for each of its values", got, remedy)
    return {v: label for v, label in found.items() if label != IGNORE}


def _lesions(mask: Volume, value: float, label: str) -> list[Mark]:
    """Components of one value: centre of mass, and diameter of the sphere of the same volume."""
    components, count = ndimage.label(mask.data == value, structure=NEIGHBOURS)
    numbers = np.arange(1, count + 1)
    centres = ndimage.center_of_mass(components > 0, components, numbers) if count else []
    volumes_mm3 = np.bincount(components.ravel(), minlength=count + 1)[1:] * abs(np.linalg.det(mask.affine[:3, :3]))
    places = world_from_index(np.array(centres), mask.affine)
    sizes = [(6 * float(v) / math.pi) ** (1 / 3) for v in volumes_mm3]
    return [Mark((x, y, z), RAS, d, label) for (x, y, z), d in zip(places.tolist(), sizes, strict=True)]
