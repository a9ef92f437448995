"""A file with neither qform nor sform: found places are voxel indices alone, and nothing is trained on or evaluated with it."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pytest

import cmb_models
from cmb_models.dataset.check.dataset import check_dataset
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume
from cmb_models.volume import UNPLACED, Volume, index_from_world
from tests.support.bundles import AFFINE, BLOBS_MM, head, head_phase, make_bundle
from tests.support.command_line import cmb
from tests.support.refused import refused
from tests.support.unplaced import unplaced
from tests.unit.dataset.check.test_dataset import codes, dataset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


def spots(indices) -> int:
    """How many of the dark spots of `head` have a place within 2 voxels."""
    centres = index_from_world(np.array(BLOBS_MM), AFFINE)
    return sum(bool((np.abs(np.array(indices) - centre).max(axis=1) <= 2).any()) for centre in centres)


def test_detection_gives_voxel_indices(tmp_path, bundle, caplog):
    path = unplaced(tmp_path / "scan.nii.gz", head())
    with cmb_models.load(bundle) as detector, caplog.at_level(logging.WARNING):
        found, placed = detector.detect(path), detector.detect(head())
    assert UNPLACED in caplog.text
    assert [(d.index, d.score) for d in found.candidates] == [(d.index, d.score) for d in placed.candidates]
    assert spots([d.index for d in found.detections]) == len(BLOBS_MM)
    table = found.to_dataframe()
    assert (
        len(table)
        and table[["x_mm", "y_mm", "z_mm"]].isna().all(axis=None)
        and not table.drop(columns=["x_mm", "y_mm", "z_mm"]).isna().any(axis=None)
    )
    with refused("scan-space"):
        found.plot()
    with refused("scan-space"):
        cmb_models.evaluate({"sub-1": found}, [])


def test_the_command_writes_empty_millimetres_and_a_warning(tmp_path, bundle):
    path, out = unplaced(tmp_path / "scan.nii.gz", head()), tmp_path / "out"
    result = cmb("detect", str(path), "--bundle", str(bundle), "--out", str(out))
    assert result.exit_code == 0, result.output
    with (out / "detections.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row[c] for row in rows for c in ("x_mm", "y_mm", "z_mm")} == {""}
    assert spots([[int(row[c]) for c in "ijk"] for row in rows]) == len(BLOBS_MM)
    (scan,) = read_json(out / "detections.json")["scans"]
    assert scan["warning"] == UNPLACED and all(d["world_mm"] is None for d in scan["detections"])
    assert not list(out.glob("*.png"))


def test_its_phase_image_has_no_place_either(tmp_path):
    swi = unplaced(tmp_path / "a_swi.nii.gz", head())
    phase = unplaced(tmp_path / "a_part-phase_swi.nii.gz", head_phase())
    with cmb_models.load(make_bundle(tmp_path / "b", phase=True)) as detector:
        found, placed = detector.detect(swi), detector.detect(head(), head_phase())
        assert [(d.index, d.score) for d in found.candidates] == [(d.index, d.score) for d in placed.candidates]
        with refused("phase-grid"):  # one of both has a place
            detector.detect(head(), phase)


def test_voxel_sizes_are_those_of_the_header_and_axes_as_stored(tmp_path):
    affine = np.diag([-0.8, 0.8, 2, 1])
    volume = read_volume(unplaced(tmp_path / "a.nii", Volume(head().data, affine)), needs_place=False)
    np.testing.assert_allclose(volume.affine, np.diag([0.8, 0.8, 2, 1]), rtol=1e-6)
    assert not volume.in_scanner and not volume.to_ras().in_scanner


def test_training_refuses_it(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": head()}, empty=["sub-1"])
    unplaced(site / "sub-1/swi/sub-1_swi.nii.gz", head())
    assert codes(check_dataset(site).faults) == ["scan-space"]
