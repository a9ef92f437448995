"""`cmb detect` on folders: DICOM, BIDS, NIfTI; the same detections as in the files, and whose they are stays in DICOM results."""

from __future__ import annotations

import csv
import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cmb_models.io.nifti import read_volume, write_volume
from tests.support.bundles import BLOBS_MM, head, head_phase, make_bundle
from tests.support.command_line import cmb
from tests.support.dicom_export import SECRET, write_study
from tests.support.refused import refused


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    return str(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))


def study(folder: Path, kinds=("swi", "phase", "minip", "t1")) -> Path:
    write_study(folder, "SIEMENS", "p1", head(), np.random.default_rng(0), kinds)
    return folder


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_a_dicom_study_has_the_detections_of_its_file_and_dicom_results(tmp_path, bundle):
    write_volume(tmp_path / "file.nii.gz", head())
    out = tmp_path / "out"
    call = ("detect", str(study(tmp_path / "visit")), str(tmp_path / "file.nii.gz"), "--out", str(out), "--bundle", bundle)
    done = cmb(*call, "--dicom", "--labels")
    assert done.exit_code == 0, done.output
    assert "DICOM SR and SEG" in done.stdout
    found = rows(out / "detections.csv")
    places = {
        name: sorted(tuple(float(r[c]) for c in ("x_mm", "y_mm", "z_mm")) for r in found if r["scan"] == name)
        for name in ("visit", "file")
    }
    np.testing.assert_allclose(places["visit"], places["file"], atol=0.05)
    np.testing.assert_allclose(places["visit"], sorted(BLOBS_MM), atol=1.5)
    assert {f.name for f in out.glob("*.dcm")} == {"visit_cmb_sr.dcm", "visit_cmb_seg.dcm"}
    assert (out / "visit.png").is_file() and (out / "visit_desc-cmb_dseg.nii.gz").is_file()
    for file in out.iterdir():
        names_patient = SECRET.encode() in file.read_bytes()
        assert names_patient == (file.suffix == ".dcm"), file
    assert SECRET not in done.output
    assert str(pydicom.dcmread(out / "visit_cmb_sr.dcm").PatientName) == f"{SECRET}^p1"


def test_phase_of_a_study_is_used_where_the_release_does(tmp_path, tmp_path_factory):
    with_phase = str(make_bundle(tmp_path_factory.mktemp("phase") / "b", phase=True))
    call = ("--out", str(tmp_path / "out"), "--bundle", with_phase, "--no-figures")
    without = cmb("detect", str(study(tmp_path / "visit", ("swi", "minip"))), *call)
    assert without.exit_code == 1 and "phase" in without.stderr
    assert json.loads((tmp_path / "out/detections.json").read_text())["refused"][0]["code"] == "phase-missing"


def test_a_bids_dataset_becomes_a_derivative(tmp_path, bundle):
    dataset = tmp_path / "data"
    for subject, blobs in (("01", BLOBS_MM), ("02", ())):
        for session in ("a", "b"):
            folder = dataset / f"sub-{subject}/ses-{session}/swi"
            folder.mkdir(parents=True)
            write_volume(folder / f"sub-{subject}_ses-{session}_swi.nii.gz", head(blobs))
            write_volume(folder / f"sub-{subject}_ses-{session}_part-phase_swi.nii.gz", head_phase(blobs))
    out = tmp_path / "out"
    done = cmb("detect", str(dataset), "--out", str(out), "--bundle", bundle, "--labels", "--no-figures", "--report")
    assert done.exit_code == 0, done.output
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "cmb-models"
    images = sorted(f.relative_to(out).as_posix() for f in out.rglob("*.nii.gz"))
    assert images == [f"sub-{s}/ses-{v}/swi/sub-{s}_ses-{v}_desc-cmb_dseg.nii.gz" for s in ("01", "02") for v in ("a", "b")]
    assert "the atlas could not be registered" in (out / "sub-01_ses-a_swi.html").read_text()  # to an ellipsoid
    counts = [len(rows(out / i.replace(".nii.gz", ".tsv"))) for i in images]
    assert counts == [3, 3, 0, 0]
    assert read_volume(out / images[0]).data.max() == 3
    ignored = (out / ".bidsignore").read_text().split()
    known = {"dataset_description.json", ".bidsignore"}
    others = [f.name for f in out.iterdir() if f.is_file() and f.name not in known]
    assert "sub-01_ses-a_swi.html" in others and all(any(fnmatch(name, i) for i in ignored) for name in others)


def test_a_folder_of_files_leaves_out_what_is_named_as_something_else(tmp_path, bundle):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("anna_swi", "bert", "anna_phase", "anna_t1"):
        write_volume(folder / f"{name}.nii.gz", head())
    done = cmb("detect", str(folder), "--out", str(tmp_path / "out"), "--bundle", bundle, "--no-figures")
    assert done.exit_code == 0, done.output
    assert {r["scan"] for r in rows(tmp_path / "out/detections.csv")} == {"anna_swi", "bert"}
    for name in ("anna_swi", "bert"):
        (folder / f"{name}.nii.gz").unlink()
    with refused("file-not-found", case="files", got="2 that are named as something else"):
        raise cmb("detect", str(folder), "--out", str(tmp_path / "out"), "--bundle", bundle).exception


def test_faulty_studies_are_rejected_by_code_and_the_others_processed(tmp_path, bundle):
    good = study(tmp_path / "good")
    no_swi, mixed, cut, empty = (
        study(tmp_path / "no_swi", ("t1", "minip")),
        tmp_path / "mixed",
        study(tmp_path / "cut"),
        tmp_path / "empty",
    )
    for n in range(2):
        study(mixed / str(n))
    (cut / "0001/IM00009").unlink()
    empty.mkdir()
    folders = [str(f) for f in (no_swi, mixed, good, cut, empty)]
    done = cmb("detect", *folders, "--out", str(tmp_path / "out"), "--bundle", bundle, "--no-figures", "--dicom")
    assert done.exit_code == 1
    summary = json.loads((tmp_path / "out/detections.json").read_text())
    assert {r["scan"]: r["code"] for r in summary["refused"]} == {
        "no_swi": "scan-series",
        "mixed": "scan-series",
        "cut": "import-conversion",
        "empty": "scan-series",
    }
    assert [s["scan"] for s in summary["scans"]] == ["good"] and SECRET not in done.output + json.dumps(summary)
    assert {f.name for f in (tmp_path / "out").glob("*.dcm")} == {"good_cmb_sr.dcm", "good_cmb_seg.dcm"}


def test_dicom_results_need_dicom_scans(tmp_path, bundle):
    write_volume(tmp_path / "file.nii.gz", head())
    call = ("detect", str(tmp_path / "file.nii.gz"), "--out", str(tmp_path / "out"), "--bundle", bundle, "--dicom")
    with refused("options-conflict", case="--dicom", got="NIfTI files alone"):
        raise cmb(*call).exception
    assert not (tmp_path / "out").exists()


def test_a_folder_with_both_kinds_of_files_is_refused_but_not_for_its_results(tmp_path, bundle):
    folder = study(tmp_path / "visit")
    for _ in range(2):
        done = cmb("detect", str(folder), "--out", str(folder / "results"), "--bundle", bundle, "--labels", "--no-figures")
        assert done.exit_code == 0, done.output
    write_volume(folder / "of_a_tool.nii.gz", head())
    with refused("scan-mixed", case="visit", got="1 NIfTI files, such as of_a_tool.nii.gz, and [0-9]+ DICOM"):
        raise cmb("detect", str(folder), "--out", str(folder / "results"), "--bundle", bundle).exception


def test_a_phase_image_of_a_whole_dataset_is_refused(tmp_path, bundle):
    (tmp_path / "files").mkdir()
    write_volume(tmp_path / "files/a.nii.gz", head())
    call = ("detect", str(tmp_path / "files"), "--phase", str(tmp_path / "p.nii.gz"), "--out", str(tmp_path / "out"))
    with refused("options-conflict", case="files"):
        raise cmb(*call, "--bundle", bundle).exception


def test_studies_in_folders_of_one_name_have_their_parents_names_too(tmp_path, bundle, monkeypatch):
    folders = [str(study(tmp_path / visit / "dicom", ("swi",))) for visit in ("v1", "v2")]
    done = cmb("detect", *folders, "--out", str(tmp_path / "out"), "--bundle", bundle, "--no-figures")
    assert done.exit_code == 0, done.output
    assert {r["scan"] for r in rows(tmp_path / "out/detections.csv")} == {"v1_dicom", "v2_dicom"}
    monkeypatch.chdir(tmp_path / "v1/dicom/0001")
    assert cmb("detect", "..", "--out", str(tmp_path / "up"), "--bundle", bundle, "--no-figures").exit_code == 0
    assert {r["scan"] for r in rows(tmp_path / "up/detections.csv")} == {"dicom"}


def test_files_of_an_earlier_call_do_not_stay(tmp_path, bundle):
    folder, out = study(tmp_path / "visit"), tmp_path / "out"
    call = ("detect", str(folder), "--out", str(out), "--bundle", bundle)
    assert cmb(*call, "--dicom", "--labels", "--report").exit_code == 0
    written = {f.name for f in out.iterdir()}
    assert len(written) == 8
    assert cmb(*call, "--no-figures").exit_code == 0
    assert {f.name for f in out.iterdir()} == {"detections.csv", "detections.json"}
    assert cmb(*call, "--dicom", "--labels", "--report").exit_code == 0
    (folder / "0001/IM00009").unlink()
    assert cmb(*call, "--dicom", "--labels", "--report").exit_code == 1
    assert {f.name for f in out.iterdir()} == {"detections.csv", "detections.json"}
