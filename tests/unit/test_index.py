"""Ingest: what is there, or every fault of it at once."""

from __future__ import annotations

import pytest

from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.index import index_datasets
from cmb_models.io.nifti import write_volume
from tests.bundles import BLOBS_MM, head


def dataset(folder, scans, rows):
    for subject, volume in scans.items():
        write_volume(folder / subject / "swi" / f"{subject}_swi.nii.gz", volume)
    write_annotations(folder / "annotations.csv", [Annotation(s, "", *map(float, c), 3.0, "cmb", r) for s, c, r in rows])


def test_every_scan_with_its_facts(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [("sub-1", c, "a") for c in BLOBS_MM])
    one, two = index_datasets(tmp_path)["scans"]
    assert (one["key"], one["subject"], one["n_cmbs"], two["n_cmbs"]) == ("site_sub-1", "site_sub-1", 3, 0)
    assert one["shape"] == [80, 80, 32] and one["spacing_mm"] == [1, 1, 2] and one["sha256"] != two["sha256"]


def test_all_faults_are_told_at_once(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [("sub-1", (500, 0, 0), "a")])
    dataset(tmp_path / "locked", {"sub-1": head(seed=2)}, [("sub-1", (0, 0, 0), "a"), ("sub-1", (1, 0, 0), "b")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        index_datasets(tmp_path)
    for words in ("3 faults", "annotations inside the scan", "merge the rows of several raters", "annotations.csv"):
        assert words in str(error.value)


def test_the_same_file_under_two_names_is_refused(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [])
    dataset(tmp_path / "locked", {"sub-9": head(seed=1)}, [])
    with pytest.raises(InputError, match="expected a scan of its own, got the same file as"):
        index_datasets(tmp_path)


def test_no_datasets(tmp_path):
    with pytest.raises(InputError, match="a folder of datasets"):
        index_datasets(tmp_path / "raw")
