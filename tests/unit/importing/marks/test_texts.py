"""What of the texts in a file goes into a dataset: regions and kinds of mimics, and no words that may name a patient."""

from __future__ import annotations

import pytest

from cmb_models.importing.marks.add import import_marks
from cmb_models.importing.marks.forms.detect import read_file
from cmb_models.importing.marks.reading import Options
from cmb_models.io.annotations import EmptyReading, read_readings
from tests.support.refused import refused
from tests.unit.importing.marks import written

FOUR = Options(diameter_mm=4.0, rater="AB")
MAKE = {"a.mrk.json": written.markups, "a.fcsv": written.fcsv}


@pytest.mark.parametrize("name", MAKE)
def test_words_of_regions_alone_are_kept(tmp_path, name):
    for description in ("Left frontal lobe; cortical", "left thalamus 3 mm"):
        (reading,) = read_file(MAKE[name](tmp_path / name, description=description), FOUR)
        assert reading.marks[0].region == description.replace(" 3 mm", "") and not reading.note
    for description in ("Mueller Hans 1.2.1950", "thalamus of Mueller"):
        (reading,) = read_file(MAKE[name](tmp_path / name, description=description), FOUR)
        assert {m.region for m in reading.marks} == {""}
        assert reading.note == f"descriptions not kept, which are no regions: '{description}'"


@pytest.mark.parametrize("kind", ["mueller hans", "1.2.1950", "x" * 21, "", "müller"])
def test_kinds_of_mimics_in_files_are_short_words(tmp_path, kind):
    table = written.text(tmp_path / "a.csv", "x_mm,y_mm,z_mm,label", f"1,2,3,mimic:{kind}")
    with refused("annotations-invalid", got="the label 'mimic:"):
        read_file(table, FOUR)
    for name, make in MAKE.items():
        with refused("marks-option", got="'mimic:"):
            read_file(make(tmp_path / name, description=f"mimic:{kind}"), FOUR)
    (reading,) = read_file(table, Options(diameter_mm=4.0, labels={f"mimic:{kind}": "mimic:vein"}))
    assert reading.marks[0].label == "mimic:vein"


def test_kinds_of_mimics(tmp_path):
    table = written.text(tmp_path / "a.csv", "x_mm,y_mm,z_mm,label", "1,2,3,Mimic:Flow_Void2")
    assert read_file(table, FOUR)[0].marks[0].label == "mimic:flow_void2"


@pytest.mark.parametrize("form", ["sub-001.fcsv", "sub-001.csv"])
def test_a_reading_whose_marks_are_all_ignored_is_empty(site, tmp_path, form):
    file = tmp_path / form
    if form.endswith(".csv"):
        written.text(file, "subject,x_mm,y_mm,z_mm,label", *["001,1,2,3,vein"] * 3)
    else:
        written.fcsv(file, description="vein")
    outcome = import_marks([file], site, Options(diameter_mm=4, rater="AB", labels={"vein": "ignore"}))
    assert [line.becomes for line in outcome.lines] == ["read, nothing found; 3 marks ignored"]
    assert read_readings(site / "annotations.csv").empty == [EmptyReading("sub-001", "", "AB")]


def test_regions_of_tables_are_kept_where_the_column_is_named(tmp_path):
    rows = ("1,2,3,left thalamus", '1,2,9,"Müller, Thalamus links"', "1,9,3,")
    table = written.text(tmp_path / "a.csv", "x_mm,y_mm,z_mm,Location", *rows)
    (reading,) = read_file(table, FOUR)
    assert [m.region for m in reading.marks] == ["left thalamus", "", ""]
    assert reading.note == "not kept, unless --column region=Location is passed: 'Müller, Thalamus links'"
    (reading,) = read_file(table, Options(diameter_mm=4.0, columns={"region": "Location"}))
    assert [m.region for m in reading.marks] == ["left thalamus", "Müller, Thalamus links", ""] and not reading.note
