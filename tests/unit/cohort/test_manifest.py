"""The list of a cohort's scans: what it may look like, and every fault before any scan is opened."""

from __future__ import annotations

import os

import pytest

from cmb_models.cohort.manifest import read_manifest
from tests.support.refused import refused


@pytest.fixture
def files(tmp_path):
    """Three empty files below a folder of scans."""
    (tmp_path / "scans").mkdir()
    for name in ("a_swi.nii.gz", "b_swi.nii", "c_swi.nii.gz"):
        (tmp_path / "scans" / name).touch()
    return tmp_path


def manifest(folder, text: str):
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_paths_are_relative_to_the_manifest_and_names_default_to_the_files(files):
    text = f"site,scan,phase,name\nx,scans/a_swi.nii.gz,,\ny,{files}/scans/b_swi.nii,scans/c_swi.nii.gz,second\n,,,\n"
    first, second = read_manifest(manifest(files, text))
    assert (first.number, first.name, first.path, first.phase) == (0, "a_swi", files / "scans/a_swi.nii.gz", None)
    assert (second.number, second.name, second.phase) == (1, "second", files / "scans/c_swi.nii.gz")


def test_a_byte_order_mark_and_quotes_are_read(files):
    assert read_manifest(manifest(files, '\ufeff"scan"\n"scans/a_swi.nii.gz"\n'))[0].name == "a_swi"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "none"),
        ("path\nscans/a_swi.nii.gz\n", "path"),
        ("scan\n", "none"),
        ("scan\nscans/a_swi.nii.gz\nscans/../scans/a_swi.nii.gz\n", "1 listed twice .*1 names used twice"),
        ("scan,name\nscans/a_swi.nii.gz,x\nscans/b_swi.nii,x\n", r"1 names used twice \(x\)"),
        ("scan\n" + "".join(f"scans/{n}.nii\n" for n in range(9)), r"9 not found \(.*/0.nii, .*, \.\.\.\)"),
        ("scan,phase\nscans/a_swi.nii.gz,scans/none.nii\n", "1 not found .*none.nii"),
        ("name,scan\nx,scans/a_swi.nii.gz\ny\nz, \n", r"2 without one \(row 2, row 3\)"),
    ],
)
def test_faults_are_counted_and_shown(files, text, got):
    with refused("manifest-invalid", case="list.csv", got=got):
        read_manifest(manifest(files, text))


def test_a_folder_that_cannot_be_read_counts_as_not_found(files, monkeypatch):
    """Also for the superuser, whom permissions do not stop: the system's answer is replaced."""

    def refuse(path, *_args, **_kwargs):
        if "b_swi" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *_args, **_kwargs)

    stat = os.stat
    monkeypatch.setattr(os, "stat", refuse)
    with refused("manifest-invalid", got=r"1 not found \(.*b_swi.nii\)"):
        read_manifest(manifest(files, "scan\nscans/a_swi.nii.gz\nscans/b_swi.nii\n"))


def test_no_manifest_and_no_text(files):
    with refused("file-not-found"):
        read_manifest(files / "none.csv")
    (files / "list.csv").write_bytes(b"scan\n\xff\xfe\n")
    with refused("manifest-invalid", got="utf-8"):
        read_manifest(files / "list.csv")
