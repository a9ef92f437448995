"""The folder layout of a site's data."""

from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.layout import find_scans, images_left_out, phase_beside, read_phase
from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.io.nifti import write_volume
from tests.support.bundles import head
from tests.support.refused import refused


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
    with refused("dataset-layout", got=f"several of {tmp_path.name}_sub-01"):
        find_scans(tmp_path)


def test_rows_without_a_scan_are_all_named(tmp_path):
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz")
    mark(tmp_path, ("sub-01", ""), ("sub-01", "ses-9"), ("sub-07", ""))
    with refused("annotation-without-scan", got="sub-01/ses-9, sub-07"):
        find_scans(tmp_path)


def test_nothing_there(tmp_path):
    with refused("dataset-layout"):
        find_scans(tmp_path)
    mark(tmp_path)
    with refused("dataset-layout"):
        find_scans(tmp_path)


@pytest.mark.parametrize(
    ("swi", "phase"),
    [
        ("s/sub-01_swi.nii.gz", "s/sub-01_part-phase_swi.nii.gz"),
        ("s/sub-01_ses-2_swi.nii", "s/sub-01_ses-2_part-phase_swi.nii"),
        ("golden/scan.nii.gz", "golden/scan_part-phase.nii.gz"),
        ("a.b_swi_swi.nii.gz", "a.b_swi_part-phase_swi.nii.gz"),
    ],
)
def test_where_phase_is_looked_for(swi, phase):
    assert phase_beside(Path(swi)) == Path(phase)


def test_phase_is_read_from_beside_or_from_where_it_is_said_to_be(tmp_path):
    swi, other = tmp_path / "a_swi.nii.gz", tmp_path / "other.nii.gz"
    write_volume(phase_beside(swi), head(seed=1))
    write_volume(other, head(seed=2))
    assert np.array_equal(read_phase(swi).data, head(seed=1).data) and np.array_equal(
        read_phase(swi, other).data, head(seed=2).data
    )
    phase_beside(swi).write_bytes(b"")
    for file, got in ((None, "an empty file"), (tmp_path / "none.nii", "no such file")):
        with pytest.raises(InputError) as raised:
            read_phase(swi, file)
        assert raised.value.case == str(swi) and raised.value.got == got


def test_anat_and_uncompressed_files_are_scans(tmp_path):
    place(tmp_path, "sub-01/anat/sub-01_swi.nii", "sub-02/ses-1/anat/sub-02_ses-1_swi.nii.gz", "sub-03/swi/sub-03_swi.nii")
    mark(tmp_path)
    assert [s.subject for s in find_scans(tmp_path)] == ["sub-01", "sub-02", "sub-03"]


@pytest.mark.parametrize(
    "name",
    [
        "sub-004/swi/sub-004_SWI.nii.gz",
        "sub-004/swi/sub-004_swi.NII.GZ",
        "Sub-004/swi/Sub-004_swi.nii.gz",
        "sub-004/sub-004_swi.nii.gz",
        "sub-004/swi/004_swi.nii",
        "004_swi.nii.gz",
        "sub-004/swi/swi.nii.gz",
        "sub-004/ses-1/x/swi/sub-004_swi.nii.gz",
    ],
)
def test_a_scan_under_another_name_is_named(tmp_path, name):
    """Left out silently, it would take its false positives and its lesions along."""
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz", name)
    mark(tmp_path)
    with refused("dataset-layout", got=name):
        find_scans(tmp_path)


def test_every_other_image_is_left_out_for_a_reason(tmp_path):
    others = {
        "derivatives/masks/sub-01/sub-01_swi.nii.gz": "in derivatives/",
        "sub-01/anat/sub-01_T1w.nii.gz": "not named",
        "sub-01/swi/sub-01_part-mag_swi.nii.gz": "magnitude",
        "sub-01/swi/sub-01_part-phase_swi.nii.gz": "phase",
        "sub-01/swi/sub-01_minIP.nii.gz": "not named",
    }
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz", ".trash/sub-09_swi.nii.gz", *others)
    mark(tmp_path)
    assert len(find_scans(tmp_path)) == 1
    found = {image.relative_to(tmp_path).as_posix(): reason for image, reason in images_left_out(tmp_path).items()}
    assert found.keys() == others.keys()
    assert all(found[name].startswith(reason) for name, reason in others.items())


def test_links_to_folders_are_followed(tmp_path):
    place(tmp_path / "archive", "sub-02/swi/sub-02_swi.nii.gz")
    place(tmp_path / "site", "sub-01/swi/sub-01_swi.nii.gz")
    mark(tmp_path / "site")
    (tmp_path / "site/sub-02").symlink_to(tmp_path / "archive/sub-02")
    assert [s.subject for s in find_scans(tmp_path / "site")] == ["sub-01", "sub-02"]


def test_a_file_of_another_subject_is_named(tmp_path):
    place(tmp_path, "sub-01/swi/sub-01_swi.nii.gz", "sub-03/swi/sub-04_swi.nii.gz")
    mark(tmp_path)
    with refused("dataset-layout", got="sub-03/swi/sub-04_swi.nii.gz"):
        find_scans(tmp_path)
