"""Ingest: what is there, or every fault of it at once."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmb_models.config.params import load_params
from cmb_models.dataset.index import index_datasets, left_out, replaced, summary
from cmb_models.dataset.layout import phase_beside
from cmb_models.errors import InputError
from cmb_models.files import sha256_of
from cmb_models.io.annotations import Annotation, EmptyReading, write_annotations
from cmb_models.io.nifti import write_volume
from cmb_models.volume import Volume
from tests.support.bundles import BLOBS_MM, head, head_phase
from tests.support.imports import ROOT
from tests.support.refused import refused

ON = load_params(ROOT / "params.yaml").preprocess.model_copy(update={"phase": True})


def dataset(folder, scans, rows):
    for subject, volume in scans.items():
        write_volume(folder / subject / "swi" / f"{subject}_swi.nii.gz", volume)
    marks = [Annotation(s, "", *map(float, c), 3.0, "cmb", r) for s, c, r in rows]
    empty = [EmptyReading(s, "", "a") for s in scans if s not in {m.subject for m in marks}]
    write_annotations(folder / "annotations.csv", marks, empty)


def test_every_scan_with_its_facts(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [("sub-1", c, "a") for c in BLOBS_MM])
    one, two = index_datasets(tmp_path)["scans"]
    assert (one["key"], one["subject"], one["n_cmbs"], two["n_cmbs"]) == ("site_sub-1", "site_sub-1", 3, 0)
    assert one["shape"] == [80, 80, 32] and one["spacing_mm"] == [1, 1, 2] and one["sha256"] != two["sha256"]


def test_the_summary_counts_each_dataset(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [("sub-1", c, "a") for c in BLOBS_MM])
    dataset(tmp_path / "locked", {"sub-1": head(seed=3)}, [])
    assert summary(index_datasets(tmp_path)) == [
        "locked: scans 1 (1 without microbleeds), subjects 1, microbleeds 0",
        "site: scans 2 (1 without microbleeds), subjects 2, microbleeds 3",
    ]


def test_scans_that_are_not_those_of_the_last_training_are_named(tmp_path):
    """A damaged scan that DVC recorded as it is; one that was only compressed again is the same."""
    dataset(tmp_path / "site", {f"sub-{n}": head(seed=n) for n in range(3)}, [])
    index = index_datasets(tmp_path)
    files, contents = ({s["key"]: s[name] for s in index["scans"]} for name in ("sha256", "content_sha256"))
    assert replaced(index, {"training_scans": files}) == replaced(index, {}) == []
    lineage = {"training_scans": files | {"site_sub-1": "another", "site_sub-2": "compressed"}, "training_contents": contents}
    assert replaced(index, lineage | {"training_contents": contents | {"site_sub-1": "another"}}) == [
        "1 scans are not those of models/bundle: site_sub-1; if you replaced none, compare them with the originals"
    ]
    assert "2 scans" in replaced(index, {"locked_scans": lineage["training_scans"]})[0]


def test_all_faults_are_told_at_once(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [("sub-1", (500, 0, 0), "a")])
    dataset(tmp_path / "locked", {"sub-1": head(seed=2)}, [("sub-1", (0, 0, 0), "a"), ("sub-1", (1, 0, 0), "b")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        index_datasets(tmp_path)
    for words in (
        "5 faults",
        "annotations inside",
        "merge the rows",
        "a dataset with annotations.csv",
        "scans as",
        "scan of its own",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("other", ["mimic:vein", "possible"])
def test_one_place_with_two_labels_is_refused(tmp_path, other):
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [])
    rows = [Annotation("sub-1", "", x, 0.0, 0.0, 3.0, label, "a") for x, label in ((0.0, "cmb"), (1.5, other), (9.0, other))]
    write_annotations(tmp_path / "site/annotations.csv", rows)
    with refused("dataset-faults", got=f"cmb and {other} within 2 mm at"):
        index_datasets(tmp_path)
    write_annotations(tmp_path / "site/annotations.csv", [rows[0], rows[2]])
    assert index_datasets(tmp_path)["scans"][0]["n_cmbs"] == 1


def test_the_same_file_under_two_names_is_refused(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [])
    dataset(tmp_path / "locked", {"sub-9": head(seed=1)}, [])
    with refused("dataset-faults"):
        index_datasets(tmp_path)


@pytest.mark.parametrize("how", ["compressed again", "another description", "another type"])
def test_one_scan_in_two_files_is_refused(tmp_path, how):
    """Trained on as one patient and tested on as another."""
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [])
    dataset(tmp_path / "locked", {"sub-9": head(seed=2)}, [])
    original, copy = tmp_path / "site/sub-1/swi/sub-1_swi.nii.gz", tmp_path / "locked/sub-9/swi/sub-9_swi.nii.gz"
    if how == "compressed again":
        copy.write_bytes(gzip.compress(gzip.decompress(original.read_bytes()), 1))
    else:
        image = nib.load(original)
        image.header["descrip"] = b"copied"
        if how == "another type":
            image.set_data_dtype(np.float64)
        nib.save(image, copy)
    assert sha256_of(original) != sha256_of(copy)
    with refused("dataset-faults", got="the same scan as .*/sub-9_swi.nii.gz"):
        index_datasets(tmp_path)


def test_a_scan_without_rows_is_unread_and_not_used(tmp_path):
    """It may hold microbleeds that nobody marked: as a negative it would teach to miss them."""
    dataset(tmp_path / "site", {f"sub-{n}": head(seed=n) for n in (1, 2, 3)}, [("sub-1", BLOBS_MM[0], "a")])
    rows = [Annotation("sub-1", "", *map(float, BLOBS_MM[0]), 3.0, "cmb", "a")]
    write_annotations(tmp_path / "site/annotations.csv", rows, [EmptyReading("sub-2", "", "a")])
    index = index_datasets(tmp_path)
    assert [entry["key"] for entry in index["scans"]] == ["site_sub-1", "site_sub-2"]
    assert index["unread"] == [swi_of(tmp_path, "sub-3").as_posix()]
    assert "1 scans without rows" in summary(index)[1]


def test_what_may_be_right_is_logged(tmp_path, caplog):
    dataset(tmp_path / "site", {"sub-1": head(seed=1)}, [("sub-1", BLOBS_MM[0], "a")])  # 32 slices of 2 mm
    index_datasets(tmp_path)
    assert [
        r.getMessage()
        for r in caplog.records
        if "expected a scan of at least 80 mm from bottom to top, got 64 mm" in r.getMessage()
    ]


def test_an_unread_scan_is_checked(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=1)}, [("sub-1", BLOBS_MM[0], "a")])
    rows = [Annotation("sub-1", "", *map(float, BLOBS_MM[0]), 3.0, "cmb", "a")]
    write_annotations(tmp_path / "site/annotations.csv", rows)
    with refused("dataset-faults", got="the same scan as .*/sub-1_swi.nii.gz"):
        index_datasets(tmp_path)


def test_no_datasets(tmp_path):
    with refused("dataset-layout"):
        index_datasets(tmp_path / "raw")


def test_a_dataset_in_place_of_its_folder_is_one_fault(tmp_path):
    dataset(tmp_path, {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [])
    with pytest.raises(InputError, match=f"got a dataset itself, with its annotations.csv; move all .* its own, {tmp_path}/site"):
        index_datasets(tmp_path)


def swi_of(raw: Path, subject: str) -> Path:
    return raw / "site" / subject / "swi" / f"{subject}_swi.nii.gz"


def test_phase_is_part_of_what_is_there(tmp_path):
    dataset(tmp_path / "site", {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [])
    without = index_datasets(tmp_path)
    for seed, subject in ((1, "sub-1"), (2, "sub-2")):
        write_volume(phase_beside(swi_of(tmp_path, subject)), head_phase(seed=seed))
    assert index_datasets(tmp_path) == without == index_datasets(tmp_path, ON.model_copy(update={"phase": False}))
    found = index_datasets(tmp_path, ON)["scans"]
    hashes = [entry.pop("phase_sha256") for entry in found]
    assert found == without["scans"] and len({*hashes, *(e["sha256"] for e in found)}) == 4


def test_every_scan_without_its_phase_is_told_at_once(tmp_path):
    subjects = [f"sub-{n}" for n in range(1, 6)]
    dataset(tmp_path / "site", {s: head(seed=n) for n, s in enumerate(subjects)}, [])
    whole = head_phase(seed=1)
    phases = {
        "sub-1": whole,
        "sub-2": Volume(whole.data[:, :, :-1], whole.affine),
        "sub-3": Volume(whole.data, whole.affine + np.diag([0.2, 0, 0, 0])),
        "sub-5": whole,
    }
    for subject, phase in phases.items():
        write_volume(phase_beside(swi_of(tmp_path, subject)), phase)
    with pytest.raises(InputError) as error:
        index_datasets(tmp_path, ON)
    report = str(error.value).splitlines()
    assert "4 faults" in report[0]
    faults = {
        "sub-2": "on the grid of its SWI, got one of shape (80, 80, 31) for (80, 80, 32)",
        "sub-3": "on the grid of its SWI, got one that lies up to 15.8 mm off it",
        "sub-4": "sub-4_part-phase_swi.nii.gz, got no such file; add the scan's phase series as that file",
        "sub-5": f"got the same phase image as {swi_of(tmp_path, 'sub-1')}",
    }
    for line, (subject, words) in zip(report[1:5], faults.items(), strict=True):
        assert line.startswith(f"  - {swi_of(tmp_path, subject)}: expected ") and words in line


def test_images_that_are_not_used_are_counted_by_reason(tmp_path):
    for name in ("one", "two"):
        dataset(tmp_path / name, {"sub-1": head(seed=1), "sub-2": head(seed=2)}, [])
    for subject in ("sub-1", "sub-2"):
        (tmp_path / f"one/{subject}/swi/{subject}_T1w.nii.gz").touch()
    (line,) = left_out(tmp_path)
    assert line.startswith("one: 2 images not used (not named sub-*") and line.endswith("one/sub-1/swi/sub-1_T1w.nii.gz ...")
