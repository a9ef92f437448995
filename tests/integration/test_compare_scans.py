"""`cmb compare-scans` as a person runs it: what it writes, prints and rejects."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cmb_models import base_release
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.volume import Volume
from tests.support.bundles import altered, candidates, make_bundle
from tests.support.dicom_export import SECRET, write_study
from tests.support.unplaced import unplaced
from tests.support.visits import BEFORE_MM, NEW_MM, two_visits, visit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """One that keeps all candidates: a list that is full makes what has no counterpart uncertain."""
    folder = tmp_path_factory.mktemp("bundle")
    return altered(make_bundle(folder / "b"), folder / "all", candidates(max_per_scan=1000))


@pytest.fixture
def work(tmp_path, tmp_path_factory, monkeypatch):
    """A working folder with two scans of one head, the later with two more spots, and one of another; without a base release."""
    monkeypatch.setattr(base_release, "FOLDER", tmp_path_factory.mktemp("package"))
    monkeypatch.chdir(tmp_path)
    baseline, followup, _ = two_visits()
    write_volume(tmp_path / "one_swi.nii.gz", baseline)
    write_volume(tmp_path / "two_swi.nii.gz", followup)
    write_volume(tmp_path / "other_swi.nii.gz", visit(BEFORE_MM, seed=3, head_seed=5))
    return tmp_path


def rows(path) -> list[dict]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_new_lesions_are_found_where_they_are(work, bundle, cmb):
    code, out, err = cmb("compare-scans", "one_swi.nii.gz", "two_swi.nii.gz", "--out", "out", "--bundle", bundle)
    assert code == 0 and err == "" and "2 new, 0 uncertain, 2 persisting" in out and "mild" in out
    found = rows(work / "out/comparison.csv")
    assert sorted(r["change"] for r in found) == ["new", "new", "persisting", "persisting"]
    places = two_visits()[2]
    for row in found:
        at = [float(row[f"followup_{axis}_mm"]) for axis in "xyz"]
        number = int(np.argmin(np.linalg.norm(places - at, axis=1)))
        assert np.linalg.norm(places[number] - at) < 1.5 and (row["change"] == "new") == (number >= len(BEFORE_MM))
    saved = read_json(work / "out/comparison.json")
    assert saved["format"] == 1 and saved["counts"]["new"] == len(NEW_MM) and saved["followup"]["scan"] == "two_swi"
    assert sorted(p.name for p in (work / "out").iterdir()) == ["comparison-1.png", "comparison.csv", "comparison.json"]
    # Backwards they are gone; results of the earlier call do not stay.
    code, out, _ = cmb("compare-scans", "two_swi.nii.gz", "one_swi.nii.gz", "--out", "out", "--bundle", bundle, "--no-figures")
    assert code == 0 and "0 new, 0 uncertain, 2 persisting" in out
    assert read_json(work / "out/comparison.json")["counts"]["not_seen_again"] == 2
    assert sorted(p.name for p in (work / "out").iterdir()) == ["comparison.csv", "comparison.json"]


def test_scans_of_two_heads_are_rejected_and_leave_no_results(work, bundle, cmb):
    cmb("compare-scans", "one_swi.nii.gz", "two_swi.nii.gz", "--out", "out", "--bundle", bundle, "--no-figures")
    code, out, err = cmb("compare-scans", "other_swi.nii.gz", "two_swi.nii.gz", "--out", "out", "--bundle", bundle)
    assert code == 1 and "error: other_swi.nii.gz and two_swi.nii.gz: expected" in err and "comparison" not in out
    assert list((work / "out").iterdir()) == []


def test_a_table_of_pairs_goes_on_after_a_failed_one(work, bundle, cmb):
    unplaced(work / "unplaced.nii.gz", read_volume(work / "one_swi.nii.gz"))
    table = "baseline;followup;name\n../other_swi.nii.gz;../two_swi.nii.gz;p1\n../unplaced.nii.gz;../two_swi.nii.gz;p2\n"
    (work / "lists").mkdir()
    (work / "lists/pairs.csv").write_text(
        table + "../none.nii.gz;../two_swi.nii.gz;p3\n../one_swi.nii.gz;../two_swi.nii.gz;p4\n", encoding="utf-8"
    )
    code, out, err = cmb("compare-scans", "--pairs", "lists/pairs.csv", "--out", "out", "--bundle", bundle, "--no-figures")
    assert code == 1 and err.count("error:") == 3 and "rejected" in out
    found = rows(work / "out/pairs.csv")
    assert [r["error"] for r in found] == ["registration-failed", "scan-space", "file-not-found", ""]
    assert (found[3]["name"], found[3]["new"], found[3]["severity"]) == ("p4", "2", "mild")
    assert read_json(work / "out/p4/comparison.json")["counts"]["persisting"] == 2


def test_a_noisy_scan_without_a_head_is_rejected_by_the_detector(work, bundle, cmb):
    noise = np.abs(np.random.default_rng(0).normal(100, 40, (80, 80, 32)))
    write_volume(work / "noise.nii.gz", Volume(noise, np.diag([1.0, 1, 2, 1])))
    code, _, err = cmb("compare-scans", "one_swi.nii.gz", "noise.nii.gz", "--out", "out", "--bundle", bundle)
    assert code == 1 and "noise" in err


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("baseline,followup\na,b\n", "none named name"),
        ("baseline,followup,name\n", "none"),
        ("baseline,followup,name\na,b,x\na,c,X\n", "line 2: the name 'x' again"),
        ("baseline,followup,name\na,b,../x\n", "the name '../x'"),
        ("baseline,followup,name\na,,x\n", "no baseline or no followup"),
    ],
)
def test_a_table_at_fault_starts_nothing(work, bundle, cmb, table, fault):
    (work / "pairs.csv").write_text(table, encoding="utf-8")
    code, _, err = cmb("compare-scans", "--pairs", "pairs.csv", "--out", "out", "--bundle", bundle)
    assert code == 2 and fault in err and not (work / "out").exists()


def test_two_scans_or_a_table_are_needed(work, bundle, cmb):
    code, _, err = cmb("compare-scans", "one_swi.nii.gz", "--out", "out", "--bundle", bundle)
    assert code == 2 and "BASELINE and FOLLOWUP" in err
    code, _, err = cmb("compare-scans", "one_swi.nii.gz", "two_swi.nii.gz", "--pairs", "p.csv", "--out", "out", "--bundle", bundle)
    assert code == 2 and "drop one" in err


def studies(work, patients=("p1", "p1")) -> tuple[Path, Path]:
    """The two visits as DICOM studies, with whole numbers as DICOM holds them."""
    baseline, followup, _ = two_visits()
    for name, volume, patient in (("before", baseline, patients[0]), ("after", followup, patients[1])):
        whole = Volume(np.rint(volume.data).astype(np.float32), volume.affine)
        write_study(work / name, "SIEMENS", patient, whole, np.random.default_rng(0), ("swi", "minip"))
    return work / "before", work / "after"


@pytest.mark.skipif(not shutil.which("dsrdump") or not shutil.which("dciodvfy"), reason="needs dcmtk and dicom3tools")
def test_dicom_studies_are_compared_in_a_report_of_the_follow_up_that_refers_to_the_baseline(work, bundle, cmb):
    before, after = studies(work)
    code, out, err = cmb("compare-scans", before, after, "--out", "out", "--bundle", bundle, "--dicom", "--no-figures")
    assert code == 0 and err == "" and "2 new, 0 uncertain, 2 persisting" in out and "a DICOM SR" in out
    file = work / "out/after_cmb_change_sr.dcm"
    checked = subprocess.run(["dciodvfy", file], capture_output=True, text=True)
    assert not [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
    text = subprocess.run(["dsrdump", "+Pl", file], capture_output=True, text=True, check=True).stdout
    assert text.count('(new,99CMBMODELS,"new")') == 2 and text.count('(persisting,99CMBMODELS,"persisting")') == 2
    assert '(mild,99CMBMODELS,"mild")' in text and '"Number of new microbleeds")="2.0"' in text
    places = re.findall(r"POINT,,([-\d.e]+)/([-\d.e]+)/([-\d.e]+)\)", text)
    expected = [[float(r[f"followup_{axis}_mm"]) for axis in "xyz"] for r in rows(work / "out/comparison.csv")]
    np.testing.assert_allclose(np.array(places, dtype=float) * [-1, -1, 1], expected, atol=0.01)
    report, first, last = (pydicom.dcmread(f) for f in (file, *(next(p.rglob("IM*")) for p in (before, after))))
    assert report.StudyInstanceUID == last.StudyInstanceUID != first.StudyInstanceUID
    assert [s.StudyInstanceUID for s in report.PertinentOtherEvidenceSequence] == [first.StudyInstanceUID]
    others = [f for f in (work / "out").iterdir() if f.suffix != ".dcm"]
    assert others and all(SECRET.encode() not in f.read_bytes() for f in others)


def test_studies_of_two_patients_or_in_the_wrong_order_are_not_compared_in_one_report(work, bundle, cmb):
    for name, (code, words) in {"patients": ("p2", "two patient IDs"), "order": ("p1", "a later one")}.items():
        before, after = studies(work / name, ("p1", code))
        if name == "order":
            for file in before.rglob("IM*"):
                image = pydicom.dcmread(file)
                image.StudyDate = "20250101"
                image.save_as(file)
        code, _, err = cmb("compare-scans", before, after, "--out", name, "--bundle", bundle, "--dicom", "--no-figures")
        assert code == 1 and words in err and SECRET not in err and not list((work / name).glob("*.dcm"))


def test_a_full_list_of_candidates_makes_new_ones_uncertain(work, bundle, cmb, tmp_path):
    few = altered(bundle, tmp_path / "few", candidates(max_per_scan=2))
    code, out, _ = cmb("compare-scans", "one_swi.nii.gz", "two_swi.nii.gz", "--out", "out", "--bundle", few, "--no-figures")
    assert code == 0 and "0 new" in out and "more candidates than the release keeps" in out
    assert read_json(work / "out/comparison.json")["candidates_cut"] == {"baseline": True, "followup": True}


def test_one_scan_twice_and_a_report_of_files_are_refused(work, bundle, cmb):
    code, _, err = cmb("compare-scans", "one_swi.nii.gz", "one_swi.nii.gz", "--out", "out", "--bundle", bundle, "--no-figures")
    assert code == 1 and "the same scan twice" in err
    before, _ = studies(work)
    code, _, err = cmb("compare-scans", before, "two_swi.nii.gz", "--out", "out", "--bundle", bundle, "--dicom")
    assert code == 2 and "pairs of folders of DICOM files" in err


def test_the_table_of_pairs_is_not_overwritten(work, bundle, cmb):
    table = "baseline,followup,name\none_swi.nii.gz,two_swi.nii.gz,a\n"
    (work / "pairs.csv").write_text(table)
    code, _, err = cmb("compare-scans", "--pairs", "pairs.csv", "--out", ".", "--bundle", bundle, "--no-figures")
    assert code == 2 and "pass another --out" in err and (work / "pairs.csv").read_text() == table
    (work / "table.csv").write_text(table.replace(",a", ",pairs.csv"))
    code, _, err = cmb("compare-scans", "--pairs", "table.csv", "--out", "o", "--bundle", bundle, "--no-figures")
    assert code == 2 and "which the table of results has" in err


def test_the_page_holds_each_lesion_in_both_scans_and_loads_nothing(work, bundle, cmb):
    name = "a<b>&'\"_swi"
    shutil.copyfile(work / "two_swi.nii.gz", work / f"{name}.nii.gz")
    call = ("compare-scans", "one_swi.nii.gz", f"{name}.nii.gz", "--out", "out", "--bundle", bundle, "--no-figures")
    code, out, _ = cmb(*call, "--report")
    assert code == 0 and "comparison.html" in out
    page = (work / "out/comparison.html").read_text()
    assert page.count('id="lesion-') == 4 and page.count("data:image/jpeg") == 8
    assert '<p class="big">2 <small>new microbleeds' in page and "0 uncertain, 2 persisting" in page
    assert "a&lt;b&gt;&amp;" in page and "<b>&" not in page and "http" not in page.replace("http-equiv", "")
    assert cmb(*call)[0] == 0 and not (work / "out/comparison.html").exists()  # an earlier call's page does not stay
