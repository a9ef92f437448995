"""What the check of a dataset finds besides what ingest's own tests show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.dataset.check.dataset import check_dataset
from cmb_models.dataset.check.overview import check_data
from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head
from tests.support.imports import ROOT
from tests.support.refused import refused


def dataset(folder: Path, scans: dict[str, Volume], marks=(), empty=()) -> Path:
    for subject, volume in scans.items():
        write_volume(folder / subject / "swi" / f"{subject}_swi.nii.gz", volume)
    rows = [Annotation(s, "", *map(float, place), 3.0, "cmb", "a") for s, place in marks]
    write_annotations(folder / "annotations.csv", rows, [EmptyReading(s, "", "a") for s in empty])
    return folder


def sidecar(folder: Path, subject: str, **values) -> None:
    (folder / subject / "swi" / f"{subject}_swi.json").write_text(json.dumps(values))


def codes(errors) -> list[str]:
    return [error.code for error in errors]


def test_a_sound_dataset_has_no_findings(tmp_path):
    found = check_dataset(dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))}, [("sub-1", BLOBS_MM[0])]))
    assert (found.faults, found.warnings, len(found.used)) == ([], [], 1)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "MNIP"]}, "projection over several slices"),
        ({"SeriesDescription": "mIP_Images(SW)"}, "projection over several slices"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"], "SeriesDescription": "Pha_Images"}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE"], "SeriesDescription": "SWI"}, "phase"),
        ({"SeriesDescription": "t1_mprage_sag"}, "T1-weighted"),
    ],
)
def test_another_series_under_the_name_of_an_swi_is_recognised_by_its_sidecar(tmp_path, values, got):
    site = dataset(tmp_path / "site", {"sub-1": head()}, empty=["sub-1"])
    sidecar(site, "sub-1", **values)
    (fault,) = check_dataset(site).faults
    assert fault.code == "scan-derived" and got in fault.got and "sub-1_swi.json" in fault.got


@pytest.mark.parametrize(
    "values",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"], "SeriesDescription": "SWI_Images"},
        {"Manufacturer": "Siemens"},
        {"EchoTime": "no number", "ImageType": 3},
    ],
)
def test_other_sidecars_change_nothing(tmp_path, values):
    site = dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))}, empty=["sub-1"])
    sidecar(site, "sub-1", **values)
    found = check_dataset(site)
    assert (found.faults, found.warnings) == ([], [])


def test_a_magnitude_image_is_taken_with_a_warning(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))}, empty=["sub-1"])
    sidecar(site, "sub-1", ImageType=["ORIGINAL", "PRIMARY", "M"], SeriesDescription="Mag_Images")
    found = check_dataset(site)
    assert (found.faults, codes(found.warnings), len(found.used)) == ([], ["scan-derived"], 1)


def test_air_that_was_nan_before_the_import_is_recorded(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, empty=["sub-1", "sub-2"])
    sidecar(site, "sub-1", NanVoxelsSetToZero=1234)
    assert [entry.get("nan_voxels_set_to_zero") for entry in check_dataset(site).used] == [1234, None]


def test_a_mark_that_is_not_dark_is_named(tmp_path):
    scan, bright = head(shape=(80, 80, 48)), (25.0, 25.0, 3.0)
    found = check_dataset(dataset(tmp_path / "site", {"sub-1": scan}, [("sub-1", BLOBS_MM[0]), ("sub-1", bright)]))
    (warning,) = found.warnings
    assert warning.code == "annotation-not-dark" and warning.got.startswith("1 of 2") and "(25.0, 25.0, 3.0)" in warning.got


def test_a_slab_of_a_head_is_taken_with_a_warning(tmp_path):
    found = check_dataset(dataset(tmp_path / "site", {"sub-1": head()}, empty=["sub-1"]))  # 32 slices of 2 mm
    (warning,) = found.warnings
    assert (warning.code, warning.got, found.faults) == ("scan-coverage", "64 mm", [])


def test_faults_of_the_layout_and_of_the_scans_are_listed_together(tmp_path):
    noisy = Volume(np.full((80, 80, 48), np.nan), AFFINE)
    site = dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": noisy}, [("sub-1", (500, 0, 0)), ("sub-9", (0, 0, 0))])
    write_volume(site / "sub-3/swi/sub-3_SWI.nii.gz", head(seed=3))
    found = check_dataset(site)
    assert codes(found.faults) == ["dataset-layout", "annotation-without-scan", "annotation-outside", "scan-not-finite"]
    assert codes(found.warnings) == ["scan-coverage", "scan-unread"]


def test_unreadable_annotations_do_not_hide_faults_of_scans(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": Volume(np.full((80, 80, 48), 3.0), AFFINE)})
    (site / "annotations.csv").write_text("subject;x\n")
    assert codes(check_dataset(site).faults) == ["annotations-invalid", "scan-constant"]


def test_a_patient_in_two_datasets_is_named_by_the_code_of_the_import(tmp_path):
    """Two subjects for the split: trained on as one, tested on as the other."""
    for n, name in enumerate(("site", "locked")):
        scans = {"sub-k3w7qzt2": head(seed=n), "sub-001": head(seed=n + 5)}
        dataset(tmp_path / name, scans, empty=scans)
    (fault,) = check_data(tmp_path).faults
    assert (fault.code, fault.case) == ("leakage", "sub-k3w7qzt2")  # and not sub-001, which any site has


def test_scans_seen_twice_across_datasets(tmp_path):
    dataset(tmp_path / "a", {"sub-1": head(seed=1)}, empty=["sub-1"])
    dataset(tmp_path / "b", {"sub-7": head(seed=1)}, empty=["sub-7"])
    (fault,) = check_data(tmp_path).faults
    assert fault.code == "scan-repeated" and "a/sub-1/swi" in fault.got and "b/sub-7/swi" in fault.case


def test_what_the_scans_can_show(tmp_path):
    """Wilson's interval of 4 of 5, by hand: (.8 + 1.92/5 -+ 1.96 sqrt(.16/5 + .96/25)) / (1 + 3.84/5)."""
    places = [BLOBS_MM[0], BLOBS_MM[1], BLOBS_MM[2]]
    scans = {f"sub-{n}": head(seed=n) for n in (1, 2)}
    marks = [("sub-1", p) for p in places] + [("sub-2", p) for p in places[:2]]
    (worth,) = check_data(dataset(tmp_path / "site", scans, marks)).worth
    assert (worth.subjects, worth.cmbs) == (2, 5)
    assert worth.low == pytest.approx(0.376, abs=0.002) and worth.high == pytest.approx(0.964, abs=0.002)


def test_a_workspace_whose_data_cannot_be_split(tmp_path):
    params = load_params(ROOT / "params.yaml")
    scans = {f"sub-{n}": head(seed=n) for n in (1, 2)}
    dataset(tmp_path / "site", scans, [("sub-1", BLOBS_MM[0])], empty=["sub-2"])
    found = check_data(tmp_path, params)
    assert set(codes(found.faults)) == {"training-too-few"} and len(found.faults) >= 2
    assert found.advice.startswith("no settings fit")


def test_no_dataset_at_all(tmp_path):
    with refused("dataset-layout"):
        check_data(tmp_path)


def test_a_scan_with_several_faults_has_all_of_them_named(tmp_path):
    scan = head(shape=(80, 80, 48))
    data = scan.data.copy()
    data[40, 40, 20] = np.nan
    site = dataset(tmp_path / "site", {"sub-1": Volume(data, AFFINE)}, [("sub-1", (500, 0, 0))])
    sidecar(site, "sub-1", SeriesDescription="t1_mprage_sag")
    assert codes(check_dataset(site).faults) == ["scan-not-finite", "scan-derived", "annotation-outside"]


def test_subjects_without_a_scan_are_named(tmp_path):
    site = dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))}, empty=["sub-1"])
    for name in ("sub-2", "sub-3/swi", "sub-4/swi", "sub-5/swi"):
        (site / name).mkdir(parents=True)
    for name in ("sub-3/swi/sub-3_swi.mha", "sub-4/swi/sub-4_swi.nii.gz.gz", "sub-5/swi/sub-5_part-mag_swi.nii.gz"):
        (site / name).touch()
    (warning,) = check_dataset(site).warnings
    assert (warning.code, warning.got) == ("dataset-layout", "none for sub-2, sub-3, sub-4")  # the image of sub-5 is named


def test_unreadable_annotations_say_nothing_of_what_was_read(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(shape=(80, 80, 48))})
    (tmp_path / "site/annotations.csv").write_text("subject;x\n")
    found = check_data(tmp_path, load_params(ROOT / "params.yaml"))
    assert (codes(found.faults), found.warnings) == (["annotations-invalid"], [])


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_a_scan_whose_axes_were_stored_in_another_order_is_the_same_scan(tmp_path, order):
    """As fslreorient2std and other programs write it."""
    scan = head(seed=1)
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = scan.data.shape[0] - 1
    other = Volume(scan.data[::-1].transpose(order), (scan.affine @ flipped)[:, [*order, 3]])
    dataset(tmp_path / "a", {"sub-1": scan}, empty=["sub-1"])
    dataset(tmp_path / "b", {"sub-7": other}, empty=["sub-7"])
    assert codes(check_data(tmp_path).faults) == ["scan-repeated"]


def test_the_folder_that_holds_datasets_is_named(tmp_path):
    dataset(tmp_path / "data/raw/site", {"sub-1": head(seed=1)}, empty=["sub-1"])
    with refused("dataset-layout") as raised:
        check_data(tmp_path / "data")
    assert raised.value.remedy == f"name {tmp_path / 'data/raw'}, which holds some"


def test_what_ingest_refuses_is_refused_in_a_workspace(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, empty=["sub-1"])
    (tmp_path / "b.dvc").touch()
    with refused("data-missing", got="no b"):
        check_data(tmp_path, load_params(ROOT / "params.yaml"))
