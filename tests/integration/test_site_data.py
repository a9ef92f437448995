"""From a hospital's DICOM export and a reader's list to data that can be trained on, by the commands of the documentation."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from cmb_models.dataset.layout import find_scans
from cmb_models.io.nifti import read_volume
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head
from tests.support.command_line import cmb
from tests.support.dicom_export import SECRET, VENDORS, write_study
from tests.support.imports import ROOT

PATIENTS = 6
NOTHING_FOUND = 5  # the last one


def volume(n: int) -> Volume:
    """A head of whole numbers whose dark spots lie where `marks` says."""
    spots = BLOBS_MM if n != NOTHING_FOUND else ()
    scan = head(spots, shape=(80, 80, 48), seed=n)
    return Volume(np.rint(scan.data), AFFINE)


@pytest.fixture
def export(tmp_path):
    for n in range(PATIENTS):
        write_study(tmp_path / f"export/DISC{n}", list(VENDORS)[n % len(VENDORS)], f"P{n}", volume(n), np.random.default_rng(n))
    with (tmp_path / "marks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["PatientID", "x", "y", "z", "size", "finding"])
        for n in range(PATIENTS):
            places = BLOBS_MM if n != NOTHING_FOUND else ()
            writer.writerows([f"{SECRET}-P{n}", *place, 3.0, "cmb"] for place in places)
    return tmp_path


def test_four_commands_make_data_that_can_be_split(export, monkeypatch):
    monkeypatch.setenv("HOME", str(export / "home"))
    (export / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(export)
    assert cmb("import", "export", "--into", "data/raw/site").exit_code == 0
    unread = cmb("check", "--json")
    assert unread.exit_code == 1 and [e["code"] for e in json.loads(unread.output)["errors"]] == ["training-too-few"]

    wrong = cmb("import", "marks", "marks.csv", "--into", "data/raw/site", "--rater", "AB", "--frame", "lps")
    assert wrong.exception.code == "annotation-frame" and "--frame ras" in wrong.exception.remedy
    right = cmb("import", "marks", "marks.csv", "--into", "data/raw/site", "--rater", "AB", "--frame", "ras", "--others-empty")
    assert right.exit_code == 0, right.output

    checked = cmb("check", "--page", "check.html", "--json")
    found = json.loads(checked.output)
    assert (checked.exit_code, found["errors"], found["warnings"]) == (0, [], [])
    assert [worth["what"] for worth in found["worth"]] == ["training, out of fold", "held-out test"]

    scans = find_scans(export / "data/raw/site")
    assert len(scans) == PATIENTS and sum(not s.annotations for s in scans) == 1 and all(s.is_read for s in scans)
    for scan in scans:
        stored = read_volume(scan.path)
        for mark in scan.annotations:
            at = np.rint(np.linalg.inv(stored.affine) @ (*mark.centre_mm, 1))[:3].astype(int)
            window = stored.data[tuple(slice(a - 4, a + 5) for a in at)]
            assert stored.data[tuple(at)] < np.percentile(window, 10), (scan.key, mark.centre_mm)
    written = [f for f in (export / "data").rglob("*") if f.suffix in (".csv", ".json")]
    assert written and not any(SECRET in f.read_text() for f in (*written, export / "check.html"))
