"""Names, links and images that no site should have: each is shown escaped or named as a fault, and nothing else happens."""

from __future__ import annotations

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from cmb_models.dataset.check.dataset import check_dataset
from cmb_models.io.annotations import Annotation, write_annotations
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head
from tests.support.command_line import cmb
from tests.unit.dataset.check.test_dataset import codes, dataset

SHAPE = (80, 80, 48)
NAMES = {
    "a newline": b"sub-a\nb",
    "markup": b"sub-[bold red]x[",
    "emoji code": b"sub-:smile:",
    "HTML": b"sub-<script>alert(1)<",
    "an escape sequence": b"sub-\x1b[2J\x07",
    "a right-to-left override": "sub-\u202egpj".encode(),
    "Latin-1": "sub-Müller".encode("latin-1"),
}


@pytest.fixture
def site(tmp_path):
    return dataset(tmp_path / "site", {"sub-1": head(shape=SHAPE)}, [("sub-1", BLOBS_MM[0])])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("readable", [True, False])
def test_names_are_shown_escaped(site, tmp_path, name, readable):
    folder = os.fsencode(site) + b"/" + name + b"/swi"
    os.makedirs(folder)
    file = folder + b"/" + name + b"_swi.nii.gz"
    if readable:
        shutil.copy(site / "sub-1/swi/sub-1_swi.nii.gz", file)
    else:
        with open(file, "wb") as stream:
            stream.write(b"no image")
    with open(os.fsencode(site) + b"/" + name + b".nii", "wb") as stream:
        stream.write(b"not used")
    page = tmp_path / "page.html"
    result = cmb("check", str(site), "--page", str(page))
    assert result.exit_code == 1 and ("scan-repeated" if readable else "scan-file") in result.output
    assert not set("\x1b\x07\u202e😄") & set(result.output)
    assert "sub-" in result.output and "<script>" not in page.read_text(encoding="utf-8")
    found = json.loads(cmb("check", str(site), "--json").output)
    assert all(text.isprintable() for error in found["errors"] for text in (error["case"], error["got"]))


def test_what_raters_are_called_is_shown_escaped(site, tmp_path):
    rater = "<script>alert(1)</script>[bold]\x1b[2J"
    write_annotations(site / "annotations.csv", [Annotation("sub-1", "", *BLOBS_MM[0], 3.0, "cmb", rater)])
    result = cmb("check", str(site), "--page", str(tmp_path / "page.html"))
    assert result.exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_links(site):
    """A folder that holds itself is read once; a scan that is a link to nothing, as without `dvc pull`, is missing, not absent."""
    (site / "sub-1/loop").symlink_to(site)
    (site / "sub-2/swi").mkdir(parents=True)
    (site / "sub-2/swi/sub-2_swi.nii.gz").symlink_to("/nowhere/scan.nii.gz")
    found = check_dataset(site)
    assert [s.subject for s in found.scans] == ["sub-1", "sub-2"]
    (fault,) = found.faults
    assert fault.code == "file-not-found" and "link" in fault.got


def test_a_folder_that_is_called_like_a_scan(site):
    (site / "sub-2/swi/sub-2_swi.nii.gz").mkdir(parents=True)
    (fault,) = check_dataset(site).faults
    assert fault.code == "dataset-layout" and fault.got == "sub-2/swi/sub-2_swi.nii.gz"


def test_a_folder_that_may_not_be_read(site, monkeypatch):
    (site / "sub-2/swi").mkdir(parents=True)
    scandir = os.scandir

    def denied(path):
        if "sub-2" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # the tests may run as root, who may read everything
    assert codes(check_dataset(site).faults) == ["file-not-readable"]


def test_a_file_of_the_same_name_in_capitals(site):
    shutil.copy(site / "sub-1/swi/sub-1_swi.nii.gz", site / "sub-1/swi/sub-1_SWI.nii.gz")
    assert codes(check_dataset(site).faults) == ["dataset-layout"]


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [
        ((20, 20, 20, 3), (1, 1, 1), "scan-geometry"),
        ((80, 80, 2), (1, 1, 5.9), "scan-geometry"),
        ((80, 80, 1), (1, 1, 2), "scan-geometry"),
        ((80, 0, 30), (1, 1, 2), "scan-geometry"),
        ((80, 80, 4), (1, 1, 5.9), ""),
    ],
)
def test_odd_shapes(site, tmp_path, shape, spacing, code):
    folder = site / "sub-2/swi"
    folder.mkdir(parents=True)
    affine = np.diag([*spacing, 1.0])
    data = head((), affine, shape).data if not code else np.ones(shape, dtype=np.float32)
    nib.save(nib.Nifti1Image(data, affine), folder / "sub-2_swi.nii.gz")
    result = cmb("check", str(site), "--page", str(tmp_path / "page.html"), "--json")
    assert [error["code"] for error in json.loads(result.output)["errors"]] == ([code] if code else [])


def test_marks_at_the_border(tmp_path):
    """The border of a scan is that of its outer voxels, half a voxel beyond their centres."""
    low, high = AFFINE[:3, 3], (AFFINE @ [79, 79, 47, 1])[:3]
    half = np.array([0.5, 0.5, 1])
    inside = [("sub-1", low), ("sub-1", high), ("sub-1", high + 0.98 * half)]
    for n, (marks, expected) in enumerate(
        [(inside[:2], []), (inside[::2], []), ([("sub-1", high + 1.02 * half)], ["annotation-outside"])]
    ):
        site = dataset(tmp_path / f"{n}", {"sub-1": head(shape=SHAPE)}, marks)
        assert codes(check_dataset(site).faults) == expected
        page = tmp_path / "page.html"
        cmb("check", str(site), "--page", str(page))
        assert page.read_text().count('<img src="data:image/jpeg') == 1 + len(marks)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d * np.nan, "scan-not-finite"),
        (lambda d: np.where(d == d.max(), np.inf, d), "scan-not-finite"),
        (lambda d: d * 0, "scan-constant"),
        (lambda d: d * 1e35, ""),
        (lambda d: -d, "scan-intensity"),
    ],
)
def test_odd_voxels(site, tmp_path, change, code):
    data = change(head(shape=SHAPE, seed=2).data).astype(np.float32)
    dataset(site, {"sub-2": Volume(data, AFFINE)}, [(s, BLOBS_MM[0]) for s in ("sub-1", "sub-2")])
    result = cmb("check", str(site), "--page", str(tmp_path / "page.html"), "--json")
    assert [error["code"] for error in json.loads(result.output)["errors"]] == ([code] if code else [])
    assert (tmp_path / "page.html").exists()
