"""Imports into a dataset that exists already, or should: nothing of it is replaced, mixed up or begun a second time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.layout import find_scans, subject_and_session, survey
from cmb_models.importing.dicom import series as dicom_series
from cmb_models.importing.scans import Imported, Options, import_scans
from cmb_models.io.annotations import EmptyReading, write_annotations
from cmb_models.io.series_role import PHASE, SWI
from cmb_models.volume import Volume
from tests.support.command_line import cmb
from tests.support.dicom_export import write_study
from tests.support.refused import refused
from tests.support.sources import scan, write_nifti


def run(source: Path, dataset: Path, key: Path, options: Options | None = None) -> Imported:
    return import_scans([source], dataset, key, options=options)


def test_a_dataset_that_was_not_pulled_is_not_begun_again(tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    site = tmp_path / "raw/site"
    site.parent.mkdir()
    (tmp_path / "raw/site.dvc").write_text("outs: []")
    with refused("data-missing", case="raw/site"):
        run(tmp_path / "in", site, tmp_path / "key.json")
    assert not site.exists()
    run(tmp_path / "in", tmp_path / "raw/locked", tmp_path / "key.json")  # another one
    site.mkdir()
    with refused("data-missing"):
        run(tmp_path / "in", site, tmp_path / "key.json")


def test_another_key_does_not_give_patients_a_second_code(tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    run(tmp_path / "in", tmp_path / "raw/site", tmp_path / "key.json")
    with refused("import-key", got="none of the 1 in"):
        run(tmp_path / "in", tmp_path / "raw/site", tmp_path / "other.json")
    assert len(find_scans(tmp_path / "raw/site")) == 1 and not (tmp_path / "other.json").exists()


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_moved_workspace_goes_on(is_absolute, tmp_path):
    """Also with the absolute paths of earlier key files: the same file under another name is seen, by its recorded hash."""
    file, key = write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1)), tmp_path / "key.json"
    (step,) = run(tmp_path / "in", tmp_path / "old/raw/site", key).steps
    saved = json.loads(key.read_text())
    assert list(saved["series"]) == [f"site/{step.target}"]
    if is_absolute:
        saved["series"] = {f"{tmp_path}/old/raw/{path}": uid for path, uid in saved["series"].items()}
        key.write_text(json.dumps(saved))
    (tmp_path / "old").rename(tmp_path / "new")
    file.rename(tmp_path / "in/p1_baseline_x_swi.nii.gz")  # the same file as another patient
    (again,) = run(tmp_path / "in", tmp_path / "new/raw/site", key).steps
    assert again.reason == f"the same file as the imported {step.target.name}"


@pytest.mark.parametrize("left", ["rows", "phase", "nothing"])
def test_a_scan_does_not_inherit_from_the_one_it_replaces(left, tmp_path):
    """The SWI is removed, and another of its name is imported."""
    site, key = tmp_path / "raw/site", tmp_path / "key.json"
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    write_nifti(tmp_path / "in/p1_swi_phase.nii.gz", Volume(scan(3).data, scan(1).affine))
    steps = run(tmp_path / "in", site, key).steps
    paths = {step.image.role: site / step.target for step in steps}
    if left == "rows":
        write_annotations(site / "annotations.csv", [], [EmptyReading(steps[0].subject, "", "A")])
    if left != "phase":
        paths[PHASE].unlink()
    paths[SWI].unlink()
    write_nifti(tmp_path / "other/p1_swi.nii.gz", scan(2))
    (step,) = run(tmp_path / "other", site, key).steps
    assert step.is_fault == (left != "nothing") != paths[SWI].exists()
    assert {"rows": "1 rows of annotations.csv", "phase": paths[PHASE].name, "nothing": ""}[left] in step.reason
    if left != "nothing":
        assert not run(tmp_path / "in", site, key).steps[0].is_fault  # the same one again


NOT_KEPT = {
    "Müller_Hans_swi": "not named by a sub- label",
    "sub-Müller_swi": "not named by a sub- label",
    "P01_swi": "not named by a sub- label",
    "sub-01_ses-20240512_swi": "its session is a date",
    "sub-01_ses-m20240512_swi": "its session is a date",
    "sub-01_ses-2024-05-12_swi": "no label of letters and digits",
    "sub-01/ses-12.05.2024/sub-01_swi": "no label of letters and digits",
    "sub-01_ses-Hans Müller_swi": "no label of letters and digits",
    "sub-01_ses-02_swi": "",
}


@pytest.mark.parametrize(("name", "reason"), NOT_KEPT.items(), ids=NOT_KEPT)
def test_names_and_dates_are_not_kept_as_labels(name, reason, tmp_path):
    write_nifti(tmp_path / f"in/{name}.nii.gz", scan(1))
    (step,) = run(tmp_path / "in", tmp_path / "raw/site", tmp_path / "key.json", Options(keep_subjects=True)).steps
    assert step.is_fault == bool(reason) and reason in step.reason and (step.target is None) == bool(reason)
    assert len(list((tmp_path / "raw").rglob("*.nii.gz"))) == (not reason)


SESSIONS = {
    "sub-01/ses-01/swi/sub-01_ses-01_swi.nii.gz": ("sub-01", "ses-01"),
    "sub-01/ses-01/swi/sub-01_ses-01_acq-hr_swi.nii.gz": ("sub-01", "ses-01"),
    "sub-01/ses-01/swi/sub-01_acq-hr_ses-01_swi.nii.gz": ("sub-01", "ses-01"),
    "sub-01/ses-01/swi/sub-01_swi.nii.gz": ("sub-01", "ses-01"),
    "sub-01/ses-01/swi/sub-01_ses-02_swi.nii.gz": None,
    "sub-01/ses-01/swi/sub-01_ses-011_swi.nii.gz": None,
    "sub-01/ses-01/swi/sub-01_acq-hr_ses-02_swi.nii.gz": None,
    "sub-01/swi/sub-01_ses-02_swi.nii.gz": None,
}


@pytest.mark.parametrize(("path", "expected"), SESSIONS.items(), ids=SESSIONS)
def test_the_session_of_a_scan_in_its_name_is_its_folders(path, expected, tmp_path):
    assert subject_and_session(path) == expected
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"")
    write_annotations(tmp_path / "annotations.csv", [])
    assert [f.code for f in survey(tmp_path).faults] == ([] if expected else ["dataset-layout"] * 2)  # misnamed, and no scan


SHARED = {"another dataset": "raw/other/key.json", "a source": "in/keys/key.json", "a git repository": "clone/a/b/key.json"}


@pytest.mark.parametrize("place", SHARED.values(), ids=SHARED)
def test_the_key_is_not_kept_where_it_would_be_shared(place, tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    (tmp_path / "clone/.git").mkdir(parents=True)
    (tmp_path / "raw/other/sub-01").mkdir(parents=True)
    with refused("import-key", got=f"one in .*/{place.rpartition('/')[0].removesuffix('/a/b').removesuffix('/keys')}"):
        run(tmp_path / "in", tmp_path / "raw/site", tmp_path / place)
    assert not (tmp_path / "raw/site").exists() and not (tmp_path / place).exists()


def test_a_dataset_within_the_source_is_not_imported_again(tmp_path):
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    for _ in range(2):
        imported = run(tmp_path / "in", tmp_path / "in/site", tmp_path / "key.json")
        assert [s.image.name for s in imported.steps] == ["p1_swi.nii.gz"] and not imported.others
    assert len(find_scans(tmp_path / "in/site")) == 1


def test_a_name_that_is_not_utf_8(tmp_path):
    """As of a Latin-1 file system: imported, shown, and found again."""
    file = write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    file.rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/M\xfcller_swi.nii.gz"))
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xfc.txt")).write_text("")
    for reason in ("", "already imported"):
        done = cmb("import", str(tmp_path / "in"), "--into", str(tmp_path / "site"), "--key", str(tmp_path / "key.json"))
        assert done.exit_code == 0 and "1 subject, 1 SWI scan" in done.output and reason.partition(" ")[0] in done.output


def test_files_and_folders_in_each_others_places(tmp_path):
    file = write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    for into in (file, file / "site"):
        with refused("folder-taken"):
            run(tmp_path / "in", into, tmp_path / "key.json")
    (tmp_path / "keys").mkdir()
    with refused("import-key", got="a folder"):
        run(tmp_path / "in", tmp_path / "site", tmp_path / "keys")
    with refused("folder-taken"):
        run(tmp_path / "in", tmp_path / "site", file / "key.json")
    assert not (tmp_path / "site").exists()


def test_visits_and_spellings_of_one_patient(tmp_path):
    for n, name in enumerate(("Pat01_baseline_swi", "pat01_followup_swi", "M\u00fcller_V1", "Mu\u0308ller_V2")):
        write_nifti(tmp_path / f"in/{name}.nii.gz", scan(n))
    run(tmp_path / "in", tmp_path / "site", tmp_path / "key.json")
    found = find_scans(tmp_path / "site")
    assert len({s.subject for s in found}) == 2 and sorted(s.session for s in found) == ["", "", "ses-02", "ses-02"]


def test_a_link_to_the_key_file_stays(tmp_path):
    """The key file would be written in place of the link: here into a git repository."""
    (tmp_path / "clone/.git").mkdir(parents=True)
    (tmp_path / "keys").mkdir()
    link = tmp_path / "clone/key.json"
    link.symlink_to(tmp_path / "keys/key.json")
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    run(tmp_path / "in", tmp_path / "site", link)
    assert link.is_symlink() and [p.name for p in (tmp_path / "keys").iterdir()] == ["key.json"]


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """A folder, and the file of a slice; root, as whom tests may run, may read everything."""
    write_study(tmp_path / "in/a", "SIEMENS", "one", scan(1), np.random.default_rng(0), ["swi"])
    write_nifti(tmp_path / "in/b/p1_swi.nii.gz", scan(2))
    last = tmp_path / "in/a/0001/IM00015"

    def denying(function):
        def denied(path, *arguments, **more):
            if str(path).endswith(("in/b", last.name)):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *arguments, **more)

        return denied

    monkeypatch.setattr(os, "scandir", denying(os.scandir))
    monkeypatch.setattr(dicom_series, "_values", denying(dicom_series._values))
    done = cmb("import", str(tmp_path / "in"), "--into", str(tmp_path / "site"), "--key", str(tmp_path / "key.json"))
    assert done.exit_code == 1 and "1 subject, 1 SWI scan" in done.output and "neither" not in done.output
    assert [line for line in done.output.splitlines() if line.startswith("not read")] == [
        f"not read: {path} (permission denied)" for path in (tmp_path / "in/b", last)
    ]


@pytest.mark.parametrize("place", ["site", "keys"])
def test_folders_that_cannot_be_written_to(place, tmp_path, monkeypatch):
    """Root, as whom tests may run, may write everywhere."""
    write_nifti(tmp_path / "in/p1_swi.nii.gz", scan(1))
    mkdir = os.mkdir

    def denied(path, *arguments, **more):
        if f"/{place}" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return mkdir(path, *arguments, **more)

    monkeypatch.setattr(os, "mkdir", denied)
    with refused("folder-not-writable", case=f"/{place}"):
        run(tmp_path / "in", tmp_path / "site", tmp_path / "keys/key.json")
