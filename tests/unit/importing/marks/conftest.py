"""A dataset of three scans: sub-001 stored as RAS, sub-002 as LAS, sub-003 with two sessions; its microbleeds at BLOBS_MM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmb_models.io.annotations import write_annotations
from cmb_models.io.nifti import write_volume
from tests.support.bundles import AFFINE, head

LAS = np.array([[-1.0, 0, 0, 39], [0, 1.0, 0, -40], [0, 0, 2.0, -32], [0, 0, 0, 1]])  # the voxels of AFFINE, from the right
SCANS = {
    "sub-001/swi/sub-001_swi.nii.gz": AFFINE,
    "sub-002/swi/sub-002_swi.nii.gz": LAS,
    "sub-003/ses-01/swi/sub-003_ses-01_swi.nii.gz": AFFINE,
    "sub-003/ses-02/swi/sub-003_ses-02_swi.nii.gz": AFFINE,
}


def write_dataset(folder: Path) -> Path:
    for n, (name, affine) in enumerate(SCANS.items()):
        (folder / name).parent.mkdir(parents=True)
        write_volume(folder / name, head(affine=affine, seed=n))
    write_annotations(folder / "annotations.csv", [])
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """The scans, which no test changes."""
    return write_dataset(tmp_path_factory.mktemp("scans") / "site")


@pytest.fixture
def site(scans, tmp_path) -> Path:
    """A dataset of its own, without rows."""
    folder = tmp_path / "raw/site"
    for name in SCANS:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).symlink_to(scans / name)
    write_annotations(folder / "annotations.csv", [])
    return folder
