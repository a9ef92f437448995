"""Point lists of 3D Slicer, read into marks; the expected places are those of BLOBS_MM."""

from __future__ import annotations

import json

import pytest

from cmb_models.importing.marks.forms.detect import read_file
from cmb_models.importing.marks.forms.slicer import diameter_in
from cmb_models.importing.marks.reading import Options
from tests.support.bundles import BLOBS_MM
from tests.support.refused import refused
from tests.unit.importing.marks import written
from tests.unit.importing.marks.readings import only, places

FOUR = Options(diameter_mm=4.0)


@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_markups(tmp_path, frame):
    readings = read_file(written.markups(tmp_path / "sub-001.mrk.json", frame=frame), Options())
    assert places(readings) == sorted(BLOBS_MM)
    assert {(m.diameter_mm, m.label, m.region) for m in only(readings).marks} == {(4.0, "cmb", "")}


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", "1"])
def test_fcsv(tmp_path, system):
    assert places(read_file(written.fcsv(tmp_path / "sub-001.fcsv", system=system), Options())) == sorted(BLOBS_MM)


def test_fcsv_without_a_coordinate_system_needs_the_option(tmp_path):
    file = written.fcsv(tmp_path / "a.fcsv")
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "Coordinate" not in line))
    with refused("marks-option", got="none"):
        read_file(file, Options())
    assert places(read_file(file, Options(frame="lps"))) == sorted(BLOBS_MM)


@pytest.mark.parametrize(("system", "options"), [("RAS", ("lps", "voxel0")), ("LPS", ("ras", "voxel1"))])
def test_the_frame_that_a_file_states_is_contradicted_by_no_option(tmp_path, system, options):
    first, second = written.in_frame([(1, 2, 3)], system)[0][:2]
    table = written.text(tmp_path / "a.csv", "r,a,s" if system == "RAS" else "l,p,s", f"{first},{second},3")
    for file in (
        written.markups(tmp_path / "a.mrk.json", [(1, 2, 3)], system),
        written.fcsv(tmp_path / "a.fcsv", [(1, 2, 3)], system),
        table,
    ):
        for frame in options:
            with refused("options-conflict", got=f"--frame {frame}"):
                read_file(file, Options(frame=frame, diameter_mm=3))
        assert places(read_file(file, Options(frame=system.lower(), diameter_mm=3))) == [(1, 2, 3)]


def test_the_option_says_the_frame_of_a_file_that_does_not(tmp_path):
    file = written.markups(tmp_path / "a.mrk.json", [(1, 2, 3)], "RAS")
    file.write_text(file.read_text().replace('"coordinateSystem": "RAS", ', ""))
    assert places(read_file(file, Options(frame="ras"))) == [(1, 2, 3)]
    assert places(read_file(file, Options())) == [(-1, -2, 3)]  # LPS, as the schema of markups says


def test_other_markups_are_named_and_alone_refused(tmp_path):
    file = written.markups(tmp_path / "a.mrk.json")
    content = json.loads(file.read_text())
    line = {"type": "Line", "name": "L1", "controlPoints": []}
    file.write_text(json.dumps({"markups": [line, *content["markups"]]}))
    reading = only(read_file(file, Options()))
    assert len(reading.marks) == 3 and reading.note == "skipped: Line L1"
    file.write_text(json.dumps({"markups": [line]}))
    with refused("marks-form", got="Line L1"):
        read_file(file, Options())


def test_points_without_a_place_are_left_out(tmp_path):
    file = written.markups(tmp_path / "a.mrk.json")
    content = json.loads(file.read_text())
    content["markups"][0]["controlPoints"][0] |= {"positionStatus": "undefined", "position": [0, 0, 0]}
    file.write_text(json.dumps(content))
    assert len(only(read_file(file, Options())).marks) == 2


def test_labels_and_regions_of_points(tmp_path):
    file = written.markups(tmp_path / "a.mrk.json")
    content = json.loads(file.read_text())
    descriptions = ("mimic:vein", "left thalamus", "?")
    for point, description in zip(content["markups"][0]["controlPoints"], descriptions, strict=True):
        point["description"] = description
    file.write_text(json.dumps(content))
    marks = only(read_file(file, Options(diameter_mm=3, labels={"?": "possible"}))).marks
    assert [(m.label, m.region) for m in marks] == [("mimic:vein", ""), ("cmb", "left thalamus"), ("possible", "")]
    marks = only(read_file(file, Options(diameter_mm=3, labels={"?": "ignore"}))).marks
    assert len(marks) == 2


def named(file, *names: str, description: str = "", of_list: str = "F"):
    """A point list with points of these names."""
    written.markups(file, [(1, 2, 3)] * len(names), description=description, name=of_list)
    content = json.loads(file.read_text())
    for point, name in zip(content["markups"][0]["controlPoints"], names, strict=True):
        point["label"] = name
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("name", "of_list", "expected"),
    [
        ("possible-1", "possible", "possible"),
        ("mimic:vein-1", "F", "mimic:vein"),
        ("mimic:vein_2-11", "F", "mimic:vein"),
        ("CMB_1", "CMB", "cmb"),
        ("Microbleed 3 mm", "F", "cmb"),
        ("F-1", "possible", "possible"),
        ("F-1", "mimic:vein_1", "mimic:vein"),
        ("F-1", "vein", "mimic:vein"),
        ("F-1", "Calcifications_2", "mimic:calcification"),
        ("F-1", "CMBs", "cmb"),
        ("vein-1", "F", "mimic:vein"),
        ("vein-1", "vein", "mimic:vein"),
        *((name, "sub-001", "cmb") for name in ("", "F", "F-1", "F_1-2", "MarkupsFiducial_1", "P-1", "1", "3 mm")),
    ],
)
def test_the_label_of_a_point_is_its_name_or_its_lists(tmp_path, name, of_list, expected):
    assert only(read_file(named(tmp_path / "a.mrk.json", name, of_list=of_list), FOUR)).marks[0].label == expected


def test_a_list_of_another_name_is_noted_where_its_points_have_none(tmp_path):
    """As cmb, they might be anything."""
    for of_list, description, labels, note in (
        ("vessels", "", {}, "points without names, taken as cmb, in a list named 'vessels'"),
        ("vessels", "possible", {}, ""),
        ("vessels", "", {"vessels": "mimic:vein"}, ""),
        ("vessels", "", {"*": "possible"}, ""),
        ("F", "", {}, ""),
        ("microbleeds", "", {}, ""),
    ):
        file = named(tmp_path / "a.mrk.json", "F-1", description=description, of_list=of_list)
        reading = only(read_file(file, Options(diameter_mm=4, labels=labels)))
        assert reading.note.partition(":")[0] == note


def test_labels_of_points_that_are_not_known_are_listed(tmp_path):
    """Also where the list is named as microbleeds."""
    file = named(tmp_path / "a.mrk.json", "vessel", "bone-2", "cmb-3", of_list="cmb")
    with refused("marks-option", got="'vessel', 'bone-2'"):
        read_file(file, FOUR)
    points = written.fcsv(tmp_path / "a.fcsv")
    points.write_text(points.read_text().replace("F-0", "vessel-1"))
    with refused("marks-option", got="'vessel-1'"):
        read_file(points, FOUR)
    known = Options(diameter_mm=4, labels={"vessel": "mimic:vein", "*": "ignore"})
    assert [m.label for m in only(read_file(file, known)).marks] == ["mimic:vein", "cmb"]


@pytest.mark.parametrize(
    ("name", "description", "expected_mm"), [("3", "", 4), ("3", "2.5", 2.5), ("F-1 3 mm", "", 3), ("3", "d 5", 5)]
)
def test_the_number_of_a_point_is_no_diameter(tmp_path, name, description, expected_mm):
    assert only(read_file(named(tmp_path / "a.mrk.json", name, description=description), FOUR)).marks[0].diameter_mm == expected_mm


def test_a_number_in_place_of_a_name_hides_no_measurement(tmp_path):
    file = named(tmp_path / "a.mrk.json", "3")
    content = json.loads(file.read_text())
    content["markups"][0]["measurements"] = [{"name": "diameter", "value": 2.5}]
    file.write_text(json.dumps(content))
    assert only(read_file(file, Options())).marks[0].diameter_mm == 2.5


def test_a_measurement_of_the_list_is_the_diameter(tmp_path):
    measurements = [{"name": "diameter", "value": 2.5, "units": "mm"}]
    file = written.markups(tmp_path / "a.mrk.json", description="", measurements=measurements)
    assert {m.diameter_mm for m in only(read_file(file, Options())).marks} == {2.5}


@pytest.mark.parametrize(
    ("text", "expected_mm"),
    [("3.5", 3.5), ("3,5 mm", 3.5), ("d = 4", 4), ("CMB, diameter: 2.5mm", 2.5), ("about 3 mm", 3), ("F-1", None), ("2nd", None)],
)
def test_diameters_in_words(text, expected_mm):
    assert diameter_in(text) == expected_mm


@pytest.mark.parametrize("make", [written.markups, written.fcsv])
def test_a_missing_diameter_names_the_option(tmp_path, make):
    file = make(tmp_path / ("a.fcsv" if make is written.fcsv else "a.mrk.json"), description="")
    with refused("marks-option") as caught:
        read_file(file, Options())
    assert caught.value.remedy.endswith("or pass --diameter-mm")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "3",
        '{"markups": 3}',
        '{"markups": [3]}',
        '{"markups": [{"type": "Fiducial"}]}',
        '{"markups": [{"type": "Fiducial", "controlPoints": [{"position": [1, 2]}]}]}',
        '{"markups": [{"type": "Fiducial", "controlPoints": [{"position": [1, 2, NaN]}]}]}',
        '{"markups": [{"type": "Fiducial", "controlPoints": [{"position": "123"}, 3]}]}',
        '{"markups": [{"type": "Fiducial", "coordinateSystem": "MNI", "controlPoints": []}]}',
        '{"markups": [{"type": "Fiducial", "coordinateUnits": "m", "controlPoints": []}]}',
        '{"markups": [{"type": "Fiducial", "measurements": 3, "controlPoints": []}]}',
        "[" * 100_000,
    ],
)
def test_json_of_another_shape(tmp_path, content):
    with refused("marks-form"):
        read_file(written.text(tmp_path / "a.mrk.json", content), FOUR)
