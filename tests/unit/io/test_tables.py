"""Tables of text as people and spreadsheets write them."""

from __future__ import annotations

import pytest

from cmb_models.io.tables import faults_by_line, read_table
from tests.support.refused import refused


@pytest.mark.parametrize(
    ("content", "separator", "number"),
    [("a,b\n1,2.5\n", ",", 2.5), ("a;b\n1;2,5\n", ";", 2.5), ("a\tb\n1\t2.5\n", "\t", 2.5), ("sep=|\na|b\n1|2,5\n", "|", 2.5)],
)
def test_separators_and_decimal_commas(tmp_path, content, separator, number):
    (tmp_path / "a.csv").write_text(content)
    table = read_table(tmp_path / "a.csv")
    assert (table.columns, table.separator, table.number(table.rows[0].values["b"], "b")) == (("a", "b"), separator, number)


def test_rows(tmp_path):
    """Lines count from 1, with the line that names the separator; rows keep their cells, values are stripped."""
    (tmp_path / "a.csv").write_text('\ufeffsep=,\na, b\n1 ,"2"\n\n,\n3\n1,2,3\n"1\n",2\n', encoding="utf-8")
    table = read_table(tmp_path / "a.csv")
    assert [(r.line, r.cells, r.values) for r in table.rows[:2]] == [
        (3, ("1 ", "2"), {"a": "1", "b": "2"}),
        (6, ("3",), {"a": "3"}),
    ]
    assert [bool(r.fault) for r in table.rows] == [False, False, True, True]
    assert "3 values for 2 columns (decimal commas?" in table.rows[2].fault and "several lines" in table.rows[3].fault


@pytest.mark.parametrize("text", ["1.000,5", "1,000,5", "x", "", "1_0", "١٢", "nan", "1e999", "3 mm"])
def test_what_is_no_number(tmp_path, text):
    (tmp_path / "a.csv").write_text("a;b\n")
    with pytest.raises(ValueError, match=f"b {text!r}, which is no number"):
        read_table(tmp_path / "a.csv").number(text, "b")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'a,b\n"1', b"a,a\n1,2\n"])
def test_unreadable(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with refused("annotations-invalid"):
        read_table(tmp_path / "a.csv")


def test_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("")
    assert read_table(tmp_path / "a.csv").columns == ()
    with refused("file-not-found"):
        read_table(tmp_path / "b.csv")


def test_faults_that_are_alike_are_listed_once():
    faults = [(2, "no x"), (3, "no y"), (4, "no x"), (5, "no x"), (6, "no x"), (9, "no x")]
    assert faults_by_line(faults) == "lines 2, 4-6, 9: no x; line 3: no y"
    assert faults_by_line((n, f"{n}") for n in range(25)).endswith("; line 19: 19; and 5 more faults")
    assert faults_by_line((2 * n, "odd") for n in range(25)).endswith(", 38 and 5 more: odd")
