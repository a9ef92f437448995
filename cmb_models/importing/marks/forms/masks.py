"""Label masks: every connected component is a lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_models.errors import InputError
from cmb_models.importing.marks.reading import ANY, IGNORE, LARGEST_MM, RAS, Grid, Mark, Options, Reading, listed, too_large
from cmb_models.io import formats
from cmb_models.io.annotations import NONE
from cmb_models.io.nifti import SUFFIXES, read_volume
from cmb_models.volume import world_from_index

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
    found = np.unique(mask.data[mask.data != 0]).tolist()
    labels = _labels(file, found, options)
    # After the values were checked: of a whole image the places would take gigabytes.
    voxels = np.argwhere(mask.data)
    values = mask.data[tuple(voxels.T)]
    of_value = {v: _lesions(voxels[values == v], mask.affine, label) for v, label in labels.items()}
    _require_small(file, of_value)
    marks = [mark for own in of_value.values() for mark in own]
    ignored = [f"{value:.0f}" for value in found if value not in labels]
    return Reading(
        file,
        MASK,
        tuple(marks),
        grid=Grid(mask.data.shape, mask.affine),
        note=f"skipped: value {', '.join(ignored)}" if ignored else "",
    )


def _require_small(file: Path, of_value: Mapping[float, Sequence[Mark]]) -> None:
    """Raise InputError if components are too large for microbleeds, as of a mask of something else."""
    large = {f"{value:.0f}": own for value, marks in of_value.items() if (own := too_large(marks))}
    if large:
        places = (
            f"{m.diameter_mm:.1f} mm at ({', '.join(f'{mm:.1f}' for mm in m.position)})" for own in large.values() for m in own
        )
        got = f"components of {listed(places)}, of the value {', '.join(large)}"
        remedy = f"correct the mask, or say what the value means: --label {next(iter(large))}=possible, mimic:<kind> or ignore"
        raise InputError("marks-form", file, f"microbleeds of at most {LARGEST_MM:g} mm", got, remedy)


def _labels(file: Path, values: Sequence[float], options: Options) -> dict[float, str]:
    """What each value of a mask means, but those to be ignored."""
    if any(not v.is_integer() for v in values):
        got, remedy = "other numbers", "pass the mask, not the image or a map of probabilities"
        raise InputError("marks-form", file, "a label mask of whole numbers", got, remedy)
    if not options.labels and len(values) > 1:
        listed = ", ".join(f"{v:.0f}" for v in values[:SHOWN]) + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
        remedy = "pass --label VALUE=cmb, possible, mimic:<kind> or ignore for each"
        raise InputError("marks-option", file, "a meaning for each of its values", f"values {listed}", remedy)
    others = options.labels.get(ANY, "") if options.labels else options.label_in_name(file) or "cmb"
    found = {v: options.labels.get(f"{v:.0f}", others) for v in values}
    if unknown := [f"{v:.0f}" for v, label in found.items() if label in ("", NONE)]:
        got = f"none for {', '.join(unknown[:SHOWN])}"
        remedy = f"pass --label {unknown[0]}=cmb, possible, mimic:<kind> or ignore"
        raise InputError("marks-option", file, "a meaning for each of its values", got, remedy)
    return {v: label for v, label in found.items() if label != IGNORE}


def _lesions(voxels: np.ndarray, affine: np.ndarray, label: str) -> list[Mark]:
    """Components of voxels (N, 3) of one value: centre of mass, and diameter of the sphere of the same volume."""
    low = voxels.min(axis=0)
    box = np.zeros(voxels.max(axis=0) - low + 1, dtype=bool)
    box[tuple((voxels - low).T)] = True
    components = ndimage.label(box, structure=NEIGHBOURS)[0][tuple((voxels - low).T)] - 1
    sizes = np.bincount(components)
    centres = np.stack([np.bincount(components, weights=axis) for axis in voxels.T], axis=1) / sizes[:, None]
    volumes_mm3 = sizes * abs(np.linalg.det(affine[:3, :3]))
    diameters_mm = np.cbrt(6 * volumes_mm3 / math.pi)
    places = world_from_index(centres, affine)
    return [Mark((x, y, z), RAS, d, label) for (x, y, z), d in zip(places.tolist(), diameters_mm.tolist(), strict=True)]
