"""Imports into a dataset that exists already, or should: nothing of it is replaced, mixed up or begun a second time."""

from __future__ import annotations

from pathlib import Path

from cmb_models.importing.scans import Imported, Options, import_scans
from tests.support.refused import refused
from tests.support.sources import scan, write_nifti


def run(source: Path, dataset: Path, key: Path, options: Options | None = None) -> Imported:
    return import_scans([source], dataset, key, options=options)


def test_a_dataset_that_was_not_pulled_is_not_begun_again(tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    site = tmp_path / "raw/site"
    site.parent.mkdir()
    (tmp_path / "raw/site.dvc").write_text("outs: []")
    with refused("dataset-missing", case="raw/site"):
        run(tmp_path / "in", site, tmp_path / "key.json")
    assert not site.exists()
    run(tmp_path / "in", tmp_path / "raw/locked", tmp_path / "key.json")  # another one
    site.mkdir()
    with refused("dataset-missing"):
        run(tmp_path / "in", site, tmp_path / "key.json")
