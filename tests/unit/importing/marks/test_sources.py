"""What is read of the files and folders that are passed, and what their names say of raters."""

from __future__ import annotations

import os

import pytest

from cmb_models.importing.identity import Key, Patient
from cmb_models.importing.marks.add import import_marks
from cmb_models.importing.marks.reading import Options
from cmb_models.io.annotations import read_readings
from tests.support.bundles import BLOBS_MM
from tests.support.command_line import cmb
from tests.support.refused import refused
from tests.unit.importing.marks import written

AB = Options(rater="AB")


@pytest.fixture
def readings(tmp_path):
    """A folder with a reading of sub-001."""
    written.markups(tmp_path / "readings/sub-001.mrk.json")
    return tmp_path / "readings"


def test_no_scan_is_empty_whose_file_was_not_read(site, readings):
    (readings / "sub-002.docx").write_text("")
    before = (site / "annotations.csv").read_bytes()
    with refused("marks-form", case="sub-002.docx") as caught:
        import_marks([readings], site, AB, others_empty=True)
    assert "--others-empty" in caught.value.expected and (site / "annotations.csv").read_bytes() == before
    (readings / "sub-002.docx").unlink()
    import_marks([readings], site, AB, others_empty=True)
    assert len(read_readings(site / "annotations.csv").empty) == 3


@pytest.mark.parametrize(
    ("name", "note"),
    [("sub-001", ""), ("sub-001_2", "; '_2' in its name is read as no session"), ("sub-001 (1)", "; '(1)' in its")],
)
def test_a_number_in_a_files_name_is_noted(site, tmp_path, name, note):
    """3D Slicer numbers a second list of one name, a browser a second download; a session it is only by its prefix."""
    (line,) = import_marks([written.markups(tmp_path / f"{name}.mrk.json")], site, AB).lines
    assert line.becomes.startswith(f"3 cmb{note}") and bool(note) == ("session" in line.becomes)


def test_a_number_behind_no_subject_is_not_noted(site, tmp_path):
    written.markups(tmp_path / "read/sub-001/points_2.mrk.json")
    assert import_marks([tmp_path / "read"], site, AB).lines[0].becomes == "3 cmb"


def test_a_number_of_a_subject_with_sessions_is_refused(site, tmp_path):
    with refused("marks-unmatched", got="none"):
        import_marks([written.markups(tmp_path / "sub-003_2.mrk.json")], site, AB)


@pytest.mark.parametrize("others_empty", [True, False])
def test_a_folder_that_cannot_be_read_is_a_fault(site, readings, monkeypatch, others_empty):
    """Which root, as whom tests may run, can do whatever the permissions are."""
    (readings / "sub-002").mkdir()
    scandir = os.scandir

    def denied(path):
        if os.fspath(path).endswith("readings/sub-002"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with refused("file-not-readable", case="readings/sub-002", got="permission denied"):
        import_marks([readings], site, AB, others_empty=others_empty)
    assert read_readings(site / "annotations.csv").annotations == []


def test_no_option_is_proposed_that_a_file_contradicts(site, tmp_path):
    """Files that call RAS what is LPS."""
    places = written.in_frame(BLOBS_MM, "LPS")
    files = [written.markups(tmp_path / f"sub-{n}.mrk.json", places, "RAS") for n in ("001", "002")]
    with refused("annotation-frame", got="6 of 6 read as LPS") as caught:
        import_marks(files, site, AB)
    assert "--frame" not in caught.value.remedy


ROW = ("subject,session,x_mm,y_mm,z_mm,diameter_mm,label", "001,,0,0,0,4,cmb")


@pytest.mark.parametrize("name", ["Mueller_Hans_AB.csv", "AB-mueller.csv", "081547_AB.csv", "Mueller_Hans/marks.csv"])
def test_no_rater_is_called_as_a_patient(site, tmp_path, name):
    key = Key(tmp_path / "keys/site.json", "00" * 32, {"sub-001": Patient("Mueller^Hans"), "sub-002": Patient("file 081547")})
    key.save()
    files = [written.text(tmp_path / f, *ROW) for f in (name, "CD/marks.csv" if "/" in name else "CD.csv")]
    before = sorted(site.rglob("*"))
    with refused("marks-option", got="name of a patient"):
        import_marks(files, site, consensus=True, key_file=key.path)
    assert sorted(site.rglob("*")) == before
    for file, rater in zip(files, ("AB", "CD"), strict=True):
        written.text(file, f"{ROW[0]},rater", f"{ROW[1]},{rater}")
    import_marks(files, site, consensus=True, key_file=key.path)
    assert [a.rater for a in read_readings(site / "annotations.csv").annotations] == ["AB+CD"]


def test_a_rater_is_what_a_name_says_besides_the_scan(site, tmp_path):
    key = Key(tmp_path / "keys/site.json", "00" * 32, {"sub-001": Patient("file Kim A"), "sub-002": Patient("5")})
    key.save()
    files = [written.text(tmp_path / name, *ROW) for name in ("sub-001_ses-01_A.csv", "reader_5.csv")]
    for file in files:
        file.write_text(file.read_text().replace("001,,", "003,ses-01,"))
    import_marks(files, site, consensus=True, key_file=key.path)
    assert [a.rater for a in read_readings(site / "annotations.csv").annotations] == ["A+reader_5"]
    with refused("marks-option", got="a scan alone"):
        import_marks([written.text(tmp_path / "sub-003.csv", *ROW), files[1]], site, consensus=True)


def test_one_row_is_one_row(site, tmp_path):
    file = written.text(tmp_path / "a.csv", *ROW)
    arguments = ("import", "marks", str(file), "--into", str(site), "--rater", "AB")
    assert "1 scan; 1 row added\n" in cmb(*arguments).output
    assert "1 scan; 0 rows added\n" in cmb(*arguments).output
