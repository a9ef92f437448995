"""Which scan a file or row belongs to, and where its marks lie there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.layout import ScanFile
from cmb_models.importing.identity import Patient
from cmb_models.importing.marks.reading import Grid, Mark, Reading
from cmb_models.importing.marks.scans import placed, position_mm, scan_of
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE
from tests.support.refused import refused
from tests.unit.importing.marks.conftest import LAS

NAMES = (("sub-001", ""), ("sub-02", ""), ("sub-003", "ses-01"), ("sub-003", "ses-02"), ("sub-A12", ""), ("sub-A123", ""))
SCANS = [ScanFile("site", subject, session, Path("scan.nii"), (), False) for subject, session in NAMES]


def reading(file="marks.csv", subject="", session="") -> Reading:
    return Reading(Path(file), "table", (), subject, session)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (reading(subject="sub-001"), ("sub-001", "")),
        (reading(subject="001"), ("sub-001", "")),
        (reading(subject="1"), ("sub-001", "")),  # as Excel has 001
        (reading(subject="2"), ("sub-02", "")),
        (reading(subject="a-12"), ("sub-A12", "")),
        (reading(subject="A123"), ("sub-A123", "")),
        (reading(subject="sub-001_swi.nii.gz"), ("sub-001", "")),
        (reading(subject="001_SWI"), ("sub-001", "")),
        (reading(subject="003_ses-01"), ("sub-003", "ses-01")),
        (reading(subject="3", session="2"), ("sub-003", "ses-02")),
        (reading(subject="sub-003", session="ses-01"), ("sub-003", "ses-01")),
        (reading(subject="sub-003_ses-02_swi.nii.gz"), ("sub-003", "ses-02")),
        (reading("masks/sub-001_space-T2S_CMB.nii.gz"), ("sub-001", "")),
        (reading("sub-A123_mask.nrrd"), ("sub-A123", "")),
        (reading("sub-003/ses-01/points.mrk.json"), ("sub-003", "ses-01")),
        (reading("sub-003_ses-02.fcsv"), ("sub-003", "ses-02")),
        (reading("old/sub-02/sub-001.nii.gz"), ("sub-001", "")),  # the name comes before the folders
        (reading("ground_truth/02.mat"), ("sub-02", "")),
        (reading("A12.mrk.json"), ("sub-A12", "")),
        (reading("sub-A12/02.mat"), ("sub-A12", "")),  # a number may be anything
        (reading(subject="data/sub-001/swi/sub-001_swi.nii.gz"), ("sub-001", "")),
        (reading(subject="sub-003_SES-02_run-1_swi"), ("sub-003", "ses-02")),
        (reading("ses-02_marks.csv", subject="003"), ("sub-003", "ses-02")),
    ],
    ids=lambda value: f"{value.file} {value.subject} {value.session}" if isinstance(value, Reading) else "",
)
def test_found(given, expected):
    scan = scan_of(given, SCANS)
    assert (scan.subject, scan.session) == expected


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (reading(subject="004"), "004"),
        (reading(subject="sub-0011"), "sub-0011"),
        (reading(subject="sub-001-b"), "sub-001-b"),
        (reading("points.fcsv"), "none"),
        (reading("001_points.fcsv"), "none"),  # a number at a file's beginning may be anything
        (reading(subject="003"), "none"),  # which session?
        (reading(subject="003", session="3"), "3"),
        (reading(subject="001", session="ses-01"), "ses-01"),
        (reading("sub-001_ses-02.mrk.json"), "ses-02"),
        (reading("sub-003_ses-03.mrk.json"), "ses-03"),
        (reading("ses-03/sub-003.mrk.json"), "ses-03"),
        (reading("ses-02_marks.csv", subject="001"), "ses-02"),
        (reading(subject="sub-001_ses-02"), "ses-02"),
        (reading(subject="001_2"), "001_2"),
        (reading(subject="sub-001_2"), "sub-001_2"),
        (reading("sub-001/sub-004.mrk.json"), "none"),  # the name comes before the folders
        (reading("sub-001/sub-01/points.mrk.json"), "none"),
    ],
)
def test_not_found(given, got):
    with refused("marks-unmatched", got=got):
        scan_of(given, SCANS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (replace(reading(subject="sub-x"), names_sessions=True), ""),  # as annotations.csv and the readers' own files name it
        (replace(reading("ses-02.csv", subject="sub-x"), names_sessions=True), "ses-02"),
        (reading(subject="sub-x", session="1"), ""),
        (reading("sub-x_ses-01.mrk.json"), ""),
        (reading("sub-x_ses-02.mrk.json"), "ses-02"),
        (reading("sub-x.mrk.json"), None),
        (reading(subject="sub-x"), None),
    ],
)
def test_the_first_session_of_an_import_which_has_no_name(given, expected):
    scans = [ScanFile("site", "sub-x", session, Path("scan.nii"), (), False) for session in ("", "ses-02")]
    if expected is not None:
        assert scan_of(given, scans).session == expected
        return
    with refused("marks-unmatched", got="none") as caught:
        scan_of(given, scans)
    assert "ses-01 for the one without a name" in caught.value.expected


def test_the_longest_name_counts():
    scans = [ScanFile("site", s, "", Path("scan.nii"), (), False) for s in ("sub-1-2", "sub-1")]
    assert scan_of(reading("sub-1-2_mask.nii"), scans).subject == "sub-1-2"
    assert scan_of(reading("sub-1_mask.nii"), scans).subject == "sub-1"


def test_a_number_of_several_subjects_is_of_none():
    scans = [ScanFile("site", s, "", Path("scan.nii"), (), False) for s in ("sub-01", "sub-001")]
    with refused("marks-unmatched"):
        scan_of(reading(subject="1"), scans)
    assert scan_of(reading(subject="01"), scans).subject == "sub-01"


@pytest.mark.parametrize(
    ("frame", "affine", "expected_mm"),
    [
        ("ras", LAS, (10, 20, 5)),
        ("lps", LAS, (-10, -20, 5)),
        ("voxel0", AFFINE, (-30, -20, -22)),  # 10 - 40, 20 - 40, 2 * 5 - 32
        ("voxel1", AFFINE, (-31, -21, -24)),
        ("voxel0", LAS, (29, -20, -22)),  # 39 - 10: the array as stored
        ("voxel1", LAS, (30, -21, -24)),
    ],
)
def test_positions(frame, affine, expected_mm):
    assert position_mm(Mark((10, 20, 5), frame, 3, "cmb"), affine) == pytest.approx(expected_mm)


PATIENTS = {
    "sub-k3w7": Patient("file PAT07", sessions={"ses-2": "", "ses-3": "ses-02"}),
    "sub-qzt2": Patient("08154711", sessions={"1.2.3": ""}),
    "sub-aaaa": Patient("file rCMB_012_1"),
    "sub-bbbb": Patient("file 5"),
    "sub-cccc": Patient("5"),
    "sub-ffff": Patient("file Müller"),
    "sub-gone": Patient("file PAT08"),
    "sub-dddd": Patient("100200"),
    "sub-eeee": Patient("00100200"),
}
CODED = [
    ScanFile("site", subject, session, Path("scan.nii"), (), False)
    for subject, session in (
        ("sub-k3w7", ""),
        ("sub-k3w7", "ses-02"),
        *((s, "") for s in PATIENTS if s not in ("sub-k3w7", "sub-gone")),
    )
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (reading(subject="08154711"), ("sub-qzt2", "")),
        (reading("08154711.fcsv"), ("sub-qzt2", "")),
        (reading("08154711/points.mrk.json"), ("sub-qzt2", "")),
        (reading(subject="rCMB_012_SWI_1.nii.gz"), ("sub-aaaa", "")),
        (reading(subject="PAT07", session="3"), ("sub-k3w7", "ses-02")),  # numbered by the import
        (reading(subject="PAT07", session="ses-2"), ("sub-k3w7", "")),  # and not ses-02
        (reading("sub-PAT07_ses-2_swi.mrk.json"), ("sub-k3w7", "")),
        (reading(subject="PAT07", session="ses-02"), ("sub-k3w7", "ses-02")),
        (reading(subject="sub-qzt2"), ("sub-qzt2", "")),
        (reading("PAT07_ses-3_points.fcsv"), ("sub-k3w7", "ses-02")),
        (reading(subject="8154711"), ("sub-qzt2", "")),  # as Excel writes it
        (reading("8154711.fcsv"), ("sub-qzt2", "")),
        (reading("Smith 08154711/points.mrk.json"), ("sub-qzt2", "")),
        (reading("Smith_08154711_AB.mrk.json"), ("sub-qzt2", "")),
        (reading("Pat07_ses-3_points.fcsv"), ("sub-k3w7", "ses-02")),  # in any spelling that the import takes for one
        (reading("Mu\u0308ller.fcsv"), ("sub-ffff", "")),
        (reading(subject="MÜLLER"), ("sub-ffff", "")),
    ],
    ids=str,
)
def test_names_from_before_the_import(given, expected):
    scan = scan_of(given, CODED, PATIENTS)
    assert (scan.subject, scan.session) == expected


@pytest.mark.parametrize(
    "given",
    [
        reading(subject="5"),  # of two patients
        reading(subject="PAT08"),  # without a scan
        reading(subject="PAT07"),  # which session?
        reading(subject="PAT07", session="4"),
        reading("5_points.fcsv"),
        reading(subject="Smith 08154711"),  # a cell is a name as a whole
        reading("X08154711/points.fcsv"),
        reading("08154711 100200/points.fcsv"),  # two patients
        reading(subject="100200"),  # 100200 or, without its zeros, 00100200
    ],
    ids=str,
)
def test_names_from_before_the_import_that_say_too_little(given):
    with refused("marks-unmatched"):
        scan_of(given, CODED, PATIENTS)


@pytest.mark.parametrize("session", ["ses-01", "ses-02"])
def test_a_session_that_is_named_is_the_only_sessions_name_too(session):
    scans = [ScanFile("site", "sub-004", "ses-01", Path("scan.nii"), (), False)]
    if session == "ses-01":
        assert scan_of(reading("sub-004_ses-01.mrk.json"), scans) == scans[0]
        return
    with refused("marks-unmatched", got="ses-02"):
        scan_of(reading("sub-004_ses-02.mrk.json"), scans)


@pytest.mark.parametrize("name", ["sub-qzt2_points.fcsv", "qzt2.fcsv", "rCMB_012_1.fcsv"])
def test_the_names_of_a_file_come_before_a_former_name_of_its_folder(name):
    scan = scan_of(reading(f"PAT07/{name}"), CODED, PATIENTS)
    assert scan.subject == ("sub-aaaa" if name.startswith("rCMB") else "sub-qzt2")


def test_a_code_comes_before_a_former_name_in_a_file_of_both():
    assert scan_of(reading("PAT07_sub-qzt2.fcsv"), CODED, PATIENTS).subject == "sub-qzt2"


def test_folders_above_the_source_name_no_subject(tmp_path):
    folder = tmp_path / "sub-001/readings"
    file = folder / "sub-02/points.fcsv"
    for source, expected in ((folder, "sub-02"), (folder / "sub-02", "sub-02")):
        assert scan_of(Reading(file, "fcsv", (), source=source), SCANS).subject == expected
    for file, source in ((folder / "points.fcsv", folder), (folder / "points.fcsv", None)):
        with refused("marks-unmatched"):
            scan_of(Reading(file, "fcsv", (), source=source), SCANS)


def grid(shape=(80, 80, 32), affine=AFFINE) -> Grid:
    return Grid(shape, affine)


SCAN = Volume(np.zeros((80, 80, 32), np.float32), AFFINE)
SAGITTAL = np.array([[0, 0, 1.0, -40], [1.0, 0, 0, -40], [0, 2.0, 0, -32], [0, 0, 0, 1]])  # axes j, k, i of AFFINE's


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    "mask",
    [grid(), grid(affine=LAS), grid((80, 32, 80), SAGITTAL), grid(affine=shifted(0.9))],
    ids=["same", "LAS", "sagittal", "0.9 mm off"],
)
def test_masks_of_the_scans_grid(mask):
    read = Reading(Path("sub-001.nii"), "mask", (Mark((1, 2, 3), "ras", 3, "cmb"),), grid=mask)
    assert placed(read, SCANS[0], SCAN, "AB").annotations[0].centre_mm == (1, 2, 3)


@pytest.mark.parametrize(("mask", "got"), [(grid((80, 80, 31)), "80 x 80 x 31 voxels"), (grid(affine=shifted(1.1)), "1 mm apart")])
def test_masks_of_another_grid(mask, got):
    with refused("marks-grid", case="sub-001.nii", got=got):
        placed(Reading(Path("sub-001.nii"), "mask", (), grid=mask), SCANS[0], SCAN, "AB")


def test_marks_outside():
    marks = tuple(Mark((x, 0, 0), "ras", 3, "cmb") for x in (0, 39.4, 39.6, -40.4, -40.6))
    with refused("annotation-outside", case="points.csv", got=r"2 of 5 outside scan.nii, the first at \(39.6, 0, 0\) read as ras"):
        placed(Reading(Path("points.csv"), "table", marks), SCANS[0], SCAN, "AB")
