"""Every form, read into marks; the expected places are derived by hand from BLOBS_MM."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.importing.marks.forms.detect import FORMS, form_of, read_file
from cmb_models.importing.marks.reading import Options
from cmb_models.networks.cnn import KINDS
from tests.support.bundles import AFFINE, BLOBS_MM
from tests.support.refused import refused
from tests.unit.importing.marks import written
from tests.unit.importing.marks.conftest import LAS
from tests.unit.importing.marks.readings import only, places

FOUR = Options(diameter_mm=4.0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("affine", [AFFINE, LAS], ids=["RAS", "LAS"])
def test_masks(tmp_path, suffix, affine):
    """Cuboids of 9 voxels of 2 mm3: a sphere of 18 mm3 has a diameter of (6 * 18 / pi) ** (1 / 3) = 3.2516 mm."""
    data = written.labels()[::-1] if affine is LAS else written.labels()
    readings = read_file(written.mask(tmp_path / f"sub-001_CMB{suffix}", data, affine), Options())
    assert places(readings) == sorted(BLOBS_MM)
    assert {round(m.diameter_mm, 4) for m in only(readings).marks} == {3.2516}


def test_voxels_that_share_a_corner_are_one_lesion(tmp_path):
    data = np.zeros((80, 80, 32), np.int16)
    data[10, 10, 10] = data[11, 11, 11] = data[13, 11, 11] = 1
    readings = read_file(written.mask(tmp_path / "a.nii.gz", data), Options())
    assert places(readings) == [(-29.5, -29.5, -11), (-27, -29, -10)]


def test_values_need_a_meaning(tmp_path):
    file = written.mask(tmp_path / "a.nii.gz", written.labels(values=(1, 2, 5)))
    with refused("marks-option", got="values 1, 2, 5"):
        read_file(file, Options())
    with refused("marks-option", got="none for 5"):
        read_file(file, Options(labels={"1": "cmb", "2": "mimic:calcification"}))
    instances = only(read_file(file, Options(labels={"*": "cmb"})))
    assert [m.label for m in instances.marks] == ["cmb"] * 3
    reading = only(read_file(file, Options(labels={"1": "cmb", "2": "mimic:calcification", "*": "ignore"})))
    assert [m.label for m in reading.marks] == ["cmb", "mimic:calcification"] and reading.note == "skipped: value 5"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vein", "mimic:vein"), ("veins_mask", "mimic:vein"), ("CMB_possible", "possible"), ("vein_iron", "cmb"), ("seg", "cmb")],
)
def test_a_files_name_says_what_it_marks(tmp_path, name, expected):
    """Where nothing in the file does."""
    mask = written.mask(tmp_path / f"sub-001_{name}.nii.gz", written.labels())
    table = written.text(tmp_path / f"{name}.csv", "x_mm,y_mm,z_mm", "1,2,3")
    slicers = written.text(tmp_path / f"{name}-2.csv", "label,r,a,s,defined", "F-1,1,2,3,1")
    for file in (mask, table, slicers, written.fcsv(tmp_path / f"sub-001-{name}.fcsv"), written.markups(tmp_path / f"{name}.json")):
        assert {m.label for m in only(read_file(file, FOUR)).marks} == {expected}
    labels = {"1": "cmb", "F": "cmb"}
    assert {m.label for m in only(read_file(mask, Options(labels=labels))).marks} == {"cmb"}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_mimics_are_labels_without_their_prefix(tmp_path, kind):
    """All that training distinguishes, and no other word."""
    for text in (kind, f"{kind.upper()}s", kind.replace("_", " ")):
        table = written.text(tmp_path / "a.csv", "x_mm,y_mm,z_mm,label", f"1,2,3,{text}")
        assert only(read_file(table, FOUR)).marks[0].label == f"mimic:{kind}"


def test_components_above_10_mm_are_no_microbleeds(tmp_path):
    """Cuboids of 16 x 17 x 1 voxels of 2 mm3: (6 * 544 / pi) ** (1 / 3) = 10.13 mm; of 16 x 16 x 1 9.93 mm."""
    data = np.zeros((80, 80, 32), np.int16)
    data[10:26, 10:27, 5] = 2
    data[50:66, 50:66, 5] = 1
    file = written.mask(tmp_path / "a.nii.gz", data)
    with refused("marks-form", got=r"components of 10.1 mm at \(-22.5, -22.0, -22.0\), of the value 2") as caught:
        read_file(file, Options(labels={"*": "cmb"}))
    assert "--label 2=possible" in caught.value.remedy
    reading = only(read_file(file, Options(labels={"1": "cmb", "2": "mimic:cavernoma"})))
    assert [m.label for m in reading.marks] == ["cmb", "mimic:cavernoma"] and not reading.note


def test_microbleeds_above_10_mm_are_noted(tmp_path):
    lines = ("x_mm,y_mm,z_mm,diameter_mm,label", "1,2,3,10,cmb", "1,2,9,10.1,cmb", "1,9,3,30,possible")
    for file in (written.text(tmp_path / "a.csv", *lines), written.fcsv(tmp_path / "a.fcsv", [(1, 2, 3)], description="d 11")):
        assert only(read_file(file, Options())).note.startswith("1 cmb above 10 mm")


def test_touching_lesions_of_two_values_are_two(tmp_path):
    data = np.zeros((80, 80, 32), np.int16)
    data[10, 10, 10], data[11, 10, 10] = 1, 2
    marks = only(read_file(written.mask(tmp_path / "a.nii.gz", data), Options(labels={"1": "cmb", "2": "possible"}))).marks
    assert [m.position for m in marks] == [(-30, -30, -12), (-29, -30, -12)]


def test_what_is_no_mask(tmp_path):
    assert only(read_file(written.mask(tmp_path / "empty.nii.gz", written.labels((), ())), Options())).marks == ()
    data = written.labels() * 0.5
    from cmb_models.io.nifti import write_volume
    from cmb_models.volume import Volume

    write_volume(tmp_path / "p.nii.gz", Volume(data, AFFINE))
    with refused("marks-form", got="other numbers"):
        read_file(tmp_path / "p.nii.gz", Options())
    with refused("options-conflict"):
        read_file(written.mask(tmp_path / "a.nii.gz", written.labels()), Options(frame="lps"))


TABLES = {  # header, row of the place (12, 8, -6), options
    "annotations": ("subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater,region", "sub-001,,12,8,-6,4,cmb,AB,", Options()),
    "upper case": ("Patient;X (mm);Y (mm);Z (mm);Size (mm)", "001;12,0;8,0;-6,0;4,0", Options()),
    "RAS": ("ID,R,A,S,diameter", "1,12,8,-6,4", Options()),
    "LPS of Slicer's table": ("label,l,p,s,subject", "cmb,-12,-8,-6,1", FOUR),
    "voxels from 0": ("subject\tx\ty\tz", "sub-001\t52\t48\t13", Options(frame="voxel0", diameter_mm=4.0)),
    "voxels from 1": ("subject\ti\tj\tk", "sub-001\t53\t49\t14", Options(frame="voxel1", diameter_mm=4.0)),
    "Slicer's table with descriptions": ("label,r,a,s,defined,description", "F-1,12,8,-6,1,4 mm", Options()),
    "slice, row, column": ("slice,row,column", "13,48,52", Options(frame="voxel0", diameter_mm=4.0)),
    "named columns": (
        "who,from left,from back,up,mm",
        "sub-001,12,8,-6,4",
        Options(
            columns={"subject": "who", "x_mm": "from left", "y_mm": "from back", "z_mm": "up", "diameter_mm": "mm"},
        ),
    ),
    "named columns in LPS": (
        "subject,a,b,c,size",
        "sub-001,-12,-8,-6,4",
        Options(columns={"x": "a", "y": "b", "z": "c"}, frame="lps"),
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_tables(tmp_path, name, suffix):
    header, row, options = TABLES[name]
    file = tmp_path / f"marks{suffix}"
    if suffix == ".csv":
        written.text(file, header, "", row)
    else:
        separator = next(c for c in ("\t", ";", ",") if c in header)
        cells = [cell if "sub" in cell else number(cell) for cell in row.split(separator)]
        written.workbook(file, [header.split(separator), [], cells])
    readings = read_file(file, options)
    assert places(readings) == [(12, 8, -6)]
    assert [m.diameter_mm for m in only(readings).marks] == [4] and only(readings).marks[0].label == "cmb"


def number(cell):
    """A cell as a spreadsheet holds it: numbers as numbers, text with a decimal comma as text."""
    try:
        return float(cell)
    except ValueError:
        return cell or None


def test_a_table_of_several_subjects_sessions_and_raters(tmp_path):
    lines = ("ses,Subject,Reader,x_mm,y_mm,z_mm,mm,Type", "1,3,AB,1,2,3,4,CMB", "1,3,CD,1,2,3,4,Microbleed", "2,3,AB,,,,,none")
    readings = read_file(written.text(tmp_path / "a.csv", *lines), Options(columns={"diameter_mm": "mm", "session": "ses"}))
    assert [(r.subject, r.session, r.rater, len(r.marks)) for r in readings] == [
        ("3", "1", "AB", 1),
        ("3", "1", "CD", 1),
        ("3", "2", "AB", 0),
    ]


def test_columns_that_are_not_used_are_named(tmp_path):
    """One of them may say which marks are mimics: without it all of them are microbleeds."""
    file = tmp_path / "marks.csv"
    file.write_text("x_mm,y_mm,z_mm,diameter_mm,Befund,note\n12,8,-6,3,mimic:vein,small\n")
    (reading,) = read_file(file, Options())
    assert reading.note == "columns not used: Befund, note"
    (reading,) = read_file(file, Options(columns={"label": "Befund"}))
    assert (reading.note, reading.marks[0].label) == ("columns not used: note", "mimic:vein")


def test_faults_of_a_table_are_listed_together(tmp_path):
    lines = ("subject,x_mm,y_mm,z_mm,label", "sub-001,1,2,,cmb", ",1,2,3,cmb", "sub-001,1,2,3,bleed", "sub-001,1,2,inf,cmb")
    with refused(
        "annotations-invalid", got=r"line 2: no z_mm.*; line 3: no subject.*; line 4: the label 'bleed'.*; line 5: z_mm 'inf'"
    ):
        read_file(written.text(tmp_path / "a.csv", *lines, "sub-001,1,2,3,none"), FOUR)


GERMAN = (  # as a radiologist keeps a list: a title, an ID at a patient's first mark alone
    ["Mikroblutungen", None, None, None, None, None],
    ["Patient", "R", "A", "S", "Durchmesser", "Befund"],
    ["4711", 12, 8, -6, "4,5", "Mikroblutung"],
    [None, 1, 2, 3, "3,0", "Verkalkung"],
    [None, 1, 2, 9, "3,0", "Mikroblutung"],
    ["4712", None, None, None, None, "keine"],
)


def test_a_list_with_other_words_is_refused_with_all_that_it_lacks_at_once(tmp_path):
    file = written.workbook(tmp_path / "list.xlsx", GERMAN)
    got = "lines 3, 5: the label 'Mikroblutung'; lines 3-5: no diameter; lines 4-5: no Patient.*; line 4: the label 'Verk.*; line 6"
    with refused("annotations-invalid", got=got) as caught:
        read_file(file, Options(columns={"label": "Befund"}))
    remedy = caught.value.remedy
    assert all(part in remedy for part in ("'keine=MEANING'", "mimic:<kind>, none", "diameter_mm=NAME with one of Durchmesser"))
    assert "cmb'" not in remedy and remedy.endswith("correct these lines")


def test_titles_above_the_columns_of_a_sheet_are_passed_over(tmp_path):
    labels = {"Mikroblutung": "cmb", "Verkalkung": "mimic:calcification", "keine": "none"}
    options = Options(columns={"label": "Befund", "diameter_mm": "Durchmesser"}, labels=labels)
    filled = [row if row[0] else ["4711", *row[1:]] for row in GERMAN]
    readings = read_file(written.workbook(tmp_path / "list.xlsx", filled), options)
    assert [(r.subject, len(r.marks)) for r in readings] == [("4711", 3), ("4712", 0)]
    assert readings[0].marks[0].diameter_mm == 4.5


@pytest.mark.parametrize(
    ("lines", "options", "code"),
    [
        (("subject,x,y,z", "1,2,3,4"), FOUR, "marks-option"),  # mm or voxels?
        (("subject,x_mm,y_mm,z_mm", "1,2,3,4"), Options(), "marks-option"),  # of what size?
        (("subject,a,b", "1,2,3"), FOUR, "marks-form"),
        (("subject,x_mm,y_mm,z_mm", "1,2,3,4"), Options(columns={"rater": "Reader"}), "marks-form"),
        (("x_mm,x_mm,y_mm,z_mm", "1,2,3,4"), FOUR, "annotations-invalid"),
    ],
)
def test_what_a_table_must_say(tmp_path, lines, options, code):
    with refused(code):
        read_file(written.text(tmp_path / "a.csv", *lines), options)


@pytest.mark.parametrize("label", ["P1", "p2", "F-1", "cmb-1"])
def test_the_name_of_a_point_is_a_label_in_slicers_tables_alone(tmp_path, label):
    with refused("annotations-invalid", got=f"the label '{label}'"):
        read_file(written.text(tmp_path / "a.csv", "x_mm,y_mm,z_mm,label", f"1,2,3,{label}"), FOUR)
    slicers = written.text(tmp_path / "b.csv", "label,r,a,s,defined", f"{label},1,2,3,1", "possible-1,1,2,3,1")
    assert [m.label for m in only(read_file(slicers, FOUR)).marks] == ["cmb", "possible"]


def test_numbers_of_rows_are_no_subjects(tmp_path):
    rows = ("ID,x_mm,y_mm,z_mm", "1,1,2,3", "2,4,5,6")
    file = written.text(tmp_path / "a.csv", *rows)
    assert [r.subject for r in read_file(file, FOUR)] == [""]
    assert [r.subject for r in read_file(file, Options(diameter_mm=4, columns={"subject": "ID"}))] == ["1", "2"]
    assert [r.subject for r in read_file(written.text(tmp_path / "b.csv", *rows[:2], "1,4,5,6"), FOUR)] == ["1"]


def test_sheets(tmp_path):
    rows = [["subject", "x_mm", "y_mm", "z_mm"], ["001", 1, 2, 3]]
    assert places(read_file(written.workbook(tmp_path / "a.xlsx", [], rows), FOUR)) == [(1, 2, 3)]
    with refused("marks-form", got="2: Sheet, Sheet1"):
        read_file(written.workbook(tmp_path / "b.xlsx", rows, rows), FOUR)


def test_dou(tmp_path):
    """The indices of SPOT_VOX count from 0; one is added to each for an index that counts from 1."""
    file = written.dou(tmp_path / "01.mat", written.SPOT_VOX)
    with refused("marks-option", got="none"):
        read_file(file, FOUR)
    assert places(read_file(file, Options(frame="voxel0", diameter_mm=3))) == sorted(BLOBS_MM)
    one_based = written.dou(tmp_path / "02.mat", np.array(written.SPOT_VOX) + 1)
    assert places(read_file(one_based, Options(frame="voxel1", diameter_mm=3))) == sorted(BLOBS_MM)
    assert only(read_file(written.dou(tmp_path / "03.mat", []), Options(frame="voxel0"))).marks == ()


def test_csiro(tmp_path):
    """Triples count from 1; blanks are unused, the first row of a scan counts."""
    first = [n + 1 for spot in written.SPOT_VOX[:2] for n in spot]
    rows = [
        ["sub-001_SWI.nii.gz", *first, None, None, None],
        ["sub-002_SWI.nii.gz", None, None, None],
        ["sub-001_SWI.nii.gz", 1, 1, 1],
    ]
    file = written.workbook(tmp_path / "rCMB.xlsx", rows)
    marked, empty = read_file(file, FOUR)
    assert (marked.form, marked.subject, empty.subject, empty.marks) == ("csiro", "sub-001_SWI", "sub-002_SWI", ())
    assert places([marked]) == sorted(BLOBS_MM[:2]) and marked.note == "skipped: repeated rows 3"
    with refused("annotations-invalid", got="line 1: 2 numbers"):
        read_file(written.workbook(tmp_path / "b.xlsx", [["a.nii", 1, 2]]), FOUR)


def test_yonsei(tmp_path):
    """One Excel file a subject: slice, x (column), y (row)."""
    rows = [["slice", "x", "y"], *[[k, i, j] for i, j, k in written.SPOT_VOX]]
    file = written.workbook(tmp_path / "sub-001.xlsx", rows)
    assert places(read_file(file, Options(frame="voxel0", diameter_mm=3))) == sorted(BLOBS_MM)


def test_forms_are_known_by_suffix_and_content(tmp_path):
    assert form_of(written.fcsv(tmp_path / "points.csv")) == "fcsv"
    assert form_of(written.text(tmp_path / "a.tsv", "subject\tx")) == "table"
    with refused("marks-form", got="a .xls file"):
        form_of(written.text(tmp_path / "a.xls", ""))
    with refused("file-not-found"):
        read_file(tmp_path / "none.csv", Options())
    assert read_file(written.fcsv(tmp_path / "points.dat"), Options(form="fcsv"))


@pytest.mark.parametrize(
    "settings",
    [{"frame": "mni"}, {"diameter_mm": 0}, {"diameter_mm": 100}, {"labels": {"1": "bleed"}}, {"columns": {"size": "x"}}],
    ids=str,
)
def test_options_are_validated(settings):
    with refused("setting-invalid"):
        Options(**settings)


def examples(folder):
    """A good file of each form and suffix."""
    spots = written.SPOT_VOX
    yield written.markups(folder / "a.mrk.json")
    yield written.fcsv(folder / "a.fcsv")
    for suffix in (".nii", ".nii.gz", ".mha", ".nrrd"):
        yield written.mask(folder / f"a{suffix}", written.labels())
    yield written.text(folder / "a.csv", "subject,x_mm,y_mm,z_mm", "001,1,2,3")
    yield written.workbook(folder / "a.xlsx", [["subject", "x", "y", "z"], ["001", 1, 2, 3]])
    yield written.workbook(folder / "c.xlsx", [["sub-001.nii", *spots[0]]])
    yield written.dou(folder / "a.mat", spots)


def test_damaged_files_are_refused_or_read(tmp_path):
    """Cut short, with other bytes, and read as every other form: an InputError, or marks, and no other exception."""
    from cmb_models.errors import InputError

    rng = np.random.default_rng(0)
    options = [Options(form=form, frame=frame, diameter_mm=3) for form in FORMS for frame in ("", "voxel0")]
    refusals = 0
    for file in list(examples(tmp_path)):
        whole = file.read_bytes()
        ruined = [b"", whole[: len(whole) // 2], whole[:-1], rng.bytes(500), b"\0" * 400]
        for _ in range(12):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 2000), 3):
                damaged[place] = rng.integers(256)
            ruined.append(bytes(damaged))
        for content in [*ruined, whole]:
            file.write_bytes(content)
            for option in [Options(frame="voxel0", diameter_mm=3), FOUR, *(options if content is whole else ())]:
                try:
                    read_file(file, option)
                except InputError:
                    refusals += 1
    assert refusals > 150
