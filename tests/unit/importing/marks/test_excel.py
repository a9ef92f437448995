"""What a sheet shows and a file does not have: empty cells would mean something else."""

from __future__ import annotations

import zipfile

import openpyxl
import pytest

from cmb_models.importing.marks.forms.detect import read_file
from cmb_models.importing.marks.reading import Options
from tests.support.refused import refused
from tests.unit.importing.marks import written

HEADER = ("subject", "x_mm", "y_mm", "z_mm", "diameter_mm", "label")
ROWS = (HEADER, *(("001", n, 2, 3, 4, "mimic:vein") for n in (1, 9)))


@pytest.mark.parametrize(
    ("cells", "is_refused"), [("F2:F3", True), ("E3:F3", True), ("A5:A6", True), ("H1:I1", False), (None, False)]
)
def test_merged_cells(tmp_path, cells, is_refused):
    """Of which a file has the first alone: a vein would become a microbleed."""
    file = written.workbook(tmp_path / "a.xlsx", ROWS)
    book = openpyxl.load_workbook(file)
    if cells:
        book.active.merge_cells(cells)
    book.save(file)
    if is_refused:
        with refused("marks-form", got=f"merged ones: {cells}"):
            read_file(file, Options())
    else:
        assert [m.label for m in read_file(file, Options())[0].marks] == ["mimic:vein"] * 2


def test_formulas_without_values(tmp_path):
    """As programs write them that compute nothing: the diameter would be the option's."""
    file = written.workbook(tmp_path / "a.xlsx", (*ROWS, ("001", 20, 2, 3, "=1+2", "mimic:vein")))
    with refused("marks-form", got="never computed: E4"):
        read_file(file, Options(diameter_mm=9))


def test_a_formula_that_gives_an_empty_text_was_computed(tmp_path):
    """As in a sheet that was filled down further than there are marks. openpyxl writes no values, so the type is put in here."""
    file = written.workbook(tmp_path / "a.xlsx", (*ROWS, ('=IF(B9="","",B9)',)))
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b'<c r="A4">', b'<c r="A4" t="str">'))
    assert len(read_file(file, Options())[0].marks) == 2


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (("mimic:vein", ""), {}, "line 3: no label"),
        (("mimic:vein", ""), {"*": "possible"}, ["mimic:vein", "possible"]),
        (("", ""), {}, ["cmb", "cmb"]),
        (("", ""), {"*": "ignore"}, ["cmb", "cmb"]),
    ],
)
def test_a_row_without_a_label_among_others_is_not_guessed(tmp_path, labels, options, expected):
    rows = [",".join(HEADER), *(f"001,{9 * n},2,3,4,{label}" for n, label in enumerate(labels))]
    file = written.text(tmp_path / "a.csv", *rows)
    if isinstance(expected, str):
        with refused("annotations-invalid", got=expected):
            read_file(file, Options(labels=options))
    else:
        assert [m.label for m in read_file(file, Options(labels=options))[0].marks] == expected


def test_a_scan_without_marks_has_a_label_and_marks_need_none(tmp_path):
    file = written.text(tmp_path / "a.csv", ",".join(HEADER), "001,1,2,3,4,", "002,,,,,none")
    assert [[m.label for m in r.marks] for r in read_file(file, Options())] == [["cmb"], []]
