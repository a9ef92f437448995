"""What is read of the files and folders that are passed, and what their names say of raters."""

from __future__ import annotations

import os

import pytest

from cmb_models.importing.marks.add import import_marks
from cmb_models.importing.marks.reading import Options
from cmb_models.io.annotations import read_readings
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
    with refused("file-not-readable", case="readings/sub-002", got="Permission denied"):
        import_marks([readings], site, AB, others_empty=others_empty)
    assert read_readings(site / "annotations.csv").annotations == []
