"""What is wrong with the marks of a scan, and which of them should be reviewed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.spatial import cKDTree

from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation
from cmb_models.volume import Volume, index_from_world

ONE_LESION_MM = 2.0  # the smallest CMB by definition: two nearer centres are two readings of one
NOT_DARK = 0.5  # darkness (frames.py) of a mark below which it is named: of simulated and real CMBs, hardly any
SHOWN = 3  # places in a message


def centres_of(annotations: Iterable[Annotation]) -> np.ndarray:
    """RAS mm, (N, 3); N may be 0."""
    return np.array([a.centre_mm for a in annotations]).reshape(-1, 3)


def faults_of_marks(scan: ScanFile, volume: Volume) -> list[InputError]:
    """Two labels at a place, two rows of a microbleed, and places outside the scan."""
    centres, found = centres_of(scan.annotations), []
    labels = [a.label for a in scan.annotations]
    pairs = sorted(cKDTree(centres).query_pairs(ONE_LESION_MM)) if len(centres) else []
    if differing := [(i, j) for i, j in pairs if labels[i] != labels[j]]:
        i, j = differing[0]
        got = f"{labels[i]} and {labels[j]} within {ONE_LESION_MM:g} mm at {_place(centres[i])}{_more(len(differing) - 1)}"
        remedy = "keep one of the rows, or mark the place as possible"
        found.append(InputError("annotation-repeated", scan.path, "one label a place", got, remedy))
    if same := sum(labels[i] == labels[j] == "cmb" for i, j in pairs):
        got = f"{same} pair{'s' if same > 1 else ''} of rows nearer than {ONE_LESION_MM:g} mm"
        found.append(InputError("annotation-repeated", scan.path, "one row a microbleed", got, "merge the rows of several raters"))
    index = np.rint(index_from_world(centres, volume.affine))
    outside = ((index < 0) | (index >= volume.data.shape)).any(axis=1)
    if outside.any():
        got = f"{int(outside.sum())} of {len(outside)} outside it, the first at {_place(centres[outside][0])}"
        remedy = "give x_mm, y_mm, z_mm in scanner RAS (not LPS, not voxels)"
        found.append(InputError("annotation-outside", scan.path, "annotations inside the scan", got, remedy))
    return found


def warnings_of_marks(scan: ScanFile, darkness: np.ndarray) -> list[InputError]:
    """Microbleeds that are not dark. darkness: (N,) of the rows with the label cmb, in their order."""
    centres = centres_of(a for a in scan.annotations if a.is_cmb)
    bright = centres[darkness < NOT_DARK]
    if not len(bright):
        return []
    got = f"{len(bright)} of {len(centres)} in air or no darker than the tissue around: {', '.join(map(_place, bright[:SHOWN]))}"
    remedy = "look at them: `cmb check --page FILE` shows each"
    return [InputError("annotation-not-dark", scan.path, "microbleeds darker than their surroundings", got, remedy)]


def _place(centre_mm: np.ndarray) -> str:
    return f"({', '.join(f'{value:.1f}' for value in centre_mm)})"


def _more(n: int) -> str:
    return f", and {n} more" if n > 0 else ""
