"""The folder layout of a site's data."""

import pytest

from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.site import find_scans


def place(dataset, *names):
    for name in names:
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).touch()


def mark(dataset, *rows):
    write_annotations(dataset / "annotations.csv", [Annotation(s, e, 0.0, 0.0, 0.0, 3.0, "cmb", "") for s, e in rows])


def test_scans_with_and_without_sessions(tmp_path):
    site = tmp_path / "site-a"
    place(
        site, "sub-02/swi/sub-02_swi.nii.gz", "sub-01/ses-1/swi/sub-01_ses-1_swi.nii.gz", "sub-01/ses-2/swi/sub-01_ses-2_swi.nii.gz"
    )
    mark(site, ("sub-01", "ses-2"), ("sub-01", "ses-2"), ("sub-02", ""))
    scans = find_scans(site)
    assert [s.key for s in scans] == ["site-a_sub-01_ses-1", "site-a_sub-01_ses-2", "site-a_sub-02"]
    assert [len(s.annotations) for s in scans] == [0, 2, 1]
    assert {s.subject_key for s in scans} == {"site-a_sub-01", "site-a_sub-02"}


def test_phase_images_are_no_scans(tmp_path):
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz", "sub-01/swi/sub-01_part-phase_swi.nii.gz")
    mark(tmp_path)
    assert [s.path.name for s in find_scans(tmp_path)] == ["sub-01_swi.nii.gz"]


def test_two_scans_of_one_session_are_refused(tmp_path):
    place(tmp_path, "sub-01/swi/sub-01_run-1_swi.nii.gz", "sub-01/swi/sub-01_run-2_swi.nii.gz")
    mark(tmp_path)
    with pytest.raises(InputError, match=f"several of {tmp_path.name}_sub-01"):
        find_scans(tmp_path)


def test_rows_without_a_scan_are_all_named(tmp_path):
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz")
    mark(tmp_path, ("sub-01", ""), ("sub-01", "ses-9"), ("sub-07", ""))
    with pytest.raises(InputError, match="sub-01/ses-9, sub-07"):
        find_scans(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="annotations.csv"):
        find_scans(tmp_path)
    mark(tmp_path)
    with pytest.raises(InputError, match="sub-\\*_swi.nii.gz"):
        find_scans(tmp_path)
