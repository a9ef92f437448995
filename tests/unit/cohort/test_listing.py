"""A BIDS dataset as the list of a cohort: by names alone, and every fault before any image is opened."""

from __future__ import annotations

import hashlib

import pytest

from cmb_models.cohort.listing import list_cohort
from cmb_models.files import sha256_of
from tests.support.refused import refused

FILES = (
    "sub-02/ses-1/swi/sub-02_ses-1_run-1_swi.nii.gz",
    "sub-02/ses-1/swi/sub-02_ses-1_run-2_part-phase_swi.nii.gz",
    "sub-02/ses-1/swi/sub-02_ses-1_run-2_swi.nii.gz",
    "sub-02/ses-1/swi/sub-02_ses-1_run-2_part-mag_swi.nii.gz",
    "sub-02/ses-1/swi/sub-02_ses-1_minIP.nii.gz",
    "sub-01/anat/sub-01_swi.nii",
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/notes_swi.nii.gz",
    "derivatives/sub-01/anat/sub-01_desc-denoised_swi.nii.gz",
)


@pytest.fixture
def dataset(tmp_path):
    """Two subjects with three SWI, of which one has its phase. All files are empty."""
    for name in FILES:
        touch(tmp_path / "bids" / name)
    touch(tmp_path / "bids/dataset_description.json")
    return tmp_path / "bids"


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_swi_are_listed_by_name_with_their_phase(dataset):
    found = list_cohort(dataset)
    listed = [(s.number, s.name, s.path.relative_to(dataset).as_posix()) for s in found.scans]
    assert listed == [(0, "sub-01_swi", FILES[5]), (1, "sub-02_ses-1_run-1_swi", FILES[0]), (2, "sub-02_ses-1_run-2_swi", FILES[2])]
    assert [s.phase for s in found.scans] == [None, None, dataset / FILES[1]]
    assert found.sha256 == hashlib.sha256("\n".join(sorted((FILES[5], FILES[0], FILES[1], FILES[2]))).encode()).hexdigest()


def test_the_list_is_another_with_another_scan_and_the_same_elsewhere(dataset, tmp_path):
    before = list_cohort(dataset).sha256
    touch(dataset / "sub-01/anat/sub-01_T2w.nii.gz")
    assert list_cohort(dataset.rename(tmp_path / "moved")).sha256 == before
    touch(tmp_path / "moved/sub-03/swi/sub-03_swi.nii.gz")
    assert list_cohort(tmp_path / "moved").sha256 != before


def test_a_manifest_is_identified_by_its_content(dataset):
    (dataset / "list.csv").write_text(f"scan\n{FILES[0]}\n")
    found = list_cohort(dataset / "list.csv")
    assert found.sha256 == sha256_of(dataset / "list.csv") and [s.path for s in found.scans] == [dataset / FILES[0]]


@pytest.mark.parametrize(
    ("file", "got"),
    [
        ("sub-01/swi/sub-01_swi.nii.gz", r"1 names used twice \(sub-01_swi\)"),
        ("sub-01/anat/sub-02_swi.nii.gz", "1 in another's, the first sub-01/anat/sub-02_swi.nii.gz"),
    ],
)
def test_names_that_are_ambiguous_are_refused(dataset, file, got):
    touch(dataset / file)
    with refused("manifest-invalid", case="bids", got=got):
        list_cohort(dataset)


def test_a_scan_that_was_not_fetched_is_not_found(dataset):
    (dataset / "sub-03/swi").mkdir(parents=True)
    (dataset / "sub-03/swi/sub-03_swi.nii.gz").symlink_to(".git/annex/objects/none")
    with refused("manifest-invalid", got=r"1 not found \(.*sub-03_swi.nii.gz\)"):
        list_cohort(dataset)


def test_a_folder_without_swi_is_no_cohort(tmp_path):
    touch(tmp_path / "patient/IM0001")
    touch(tmp_path / "scan_swi.nii.gz")
    with refused("manifest-invalid", got="a folder with 1 images, none named so"):
        list_cohort(tmp_path)
