"""The scans that are timed: a workspace's own locked scan, brought to the sizes that are asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_models.dataset.layout import find_scans
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume
from cmb_models.volume import Volume

SMALL, LARGE = (197, 233, 94), (512, 448, 80)
SPACING_MM = {SMALL: (0.95, 0.95, 1.75), LARGE: (0.45, 0.45, 2.0)}  # a whole head in either


def scans(workspace: Path) -> dict[tuple[int, int, int], Volume]:
    """One head at each size, by size. Raises InputError for a workspace without locked scans."""
    files = [scan.path for scan in find_scans(workspace / "data/raw/locked")]
    if not files:
        raise InputError(
            "scan-not-found", workspace, "a workspace with data/raw/locked", "none", "run `make demo`, or pass --workspace"
        )
    head = read_volume(files[0]).to_ras()
    return {shape: resized(head, shape) for shape in SPACING_MM}


def resized(head: Volume, shape: tuple[int, int, int]) -> Volume:
    """A head in RAS order, brought to SMALL or LARGE by linear interpolation."""
    data = ndimage.zoom(head.data, np.asarray(shape) / head.data.shape, order=1, grid_mode=True, mode="nearest").astype(np.float32)
    assert data.shape == shape, (data.shape, shape)
    return Volume(data, np.diag([*SPACING_MM[shape], 1.0]))
