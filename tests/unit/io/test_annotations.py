"""annotations.csv: read as written, and every fault of a file reported at once."""

import pytest

from cmb_models.errors import InputError
from cmb_models.io.annotations import (
    COLUMNS,
    Annotation,
    EmptyReading,
    read_annotations,
    read_readings,
    rows_without,
    update_annotations,
    write_annotations,
)
from tests.support.refused import refused

HEADER = "subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater\n"
ROW = Annotation("sub-01", "", 1.0, -2.5, 3.0, 4.0, "cmb", "ab")


def file(tmp_path, text: str | bytes):
    path = tmp_path / "annotations.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_round_trip(tmp_path):
    rows = [ROW, Annotation("sub-02", "ses-1", 0.1234, 0.0, -9.0, 2.0, "mimic:vessel", "", "thalamus, left")]
    write_annotations(tmp_path / "a.csv", rows)
    assert read_annotations(tmp_path / "a.csv") == rows
    write_annotations(tmp_path / "empty.csv", [])
    assert (tmp_path / "empty.csv").read_text() == HEADER.replace("rater\n", "rater,region\n")
    assert read_annotations(tmp_path / "empty.csv") == []


def test_a_scan_that_was_read_without_finding_anything_is_not_an_unread_one(tmp_path):
    empty = [EmptyReading("sub-02", "ses-1", "ab"), EmptyReading("sub-03", "", "")]
    write_annotations(tmp_path / "a.csv", [ROW], empty)
    found = read_readings(tmp_path / "a.csv")
    assert (found.annotations, found.empty) == ([ROW], empty)


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ("sub-02,,1,2,3,,none,ab", "the label none, which has no place, with x_mm, y_mm, z_mm"),
        ("sub-01,,,,,,none,ab", "both for sub-01 by ab"),
    ],
)
def test_nothing_found_and_a_place_contradict_each_other(tmp_path, row, got):
    with refused("annotations-invalid", got=got):
        read_readings(file(tmp_path, f"{HEADER}sub-01,,1,2,3,4,cmb,ab\n{row}\n"))
    other_rater = read_readings(file(tmp_path, f"{HEADER}sub-01,,1,2,3,4,cmb,ab\nsub-01,,,,,,none,cd\n"))
    assert (len(other_rater.annotations), other_rater.empty) == (1, [EmptyReading("sub-01", "", "cd")])


def test_rows_are_added_in_the_files_own_way(tmp_path):
    path = file(tmp_path, 'sep=;\nrater;note;subject;session;x_mm;y_mm;z_mm;diameter_mm;label\nab;"a; b";sub-01;;1,5;2;3;4;cmb\n')
    old = path.read_text()
    update_annotations(path, [ROW], [EmptyReading("sub-02", "", "cd")])
    assert path.read_text() == old + ("ab;;sub-01;;1,0000;-2,5000;3,0000;4,0000;cmb\ncd;;sub-02;;;;;;none\n")


def test_rows_are_dropped_and_a_region_gets_its_column(tmp_path):
    path = file(tmp_path, f"{HEADER}sub-01,,1,2,3,4,cmb,ab\nsub-01,,9,9,9,4,cmb,cd\n")
    update_annotations(path, [Annotation("sub-02", "", 1.0, 2.0, 3.0, 4.0, "cmb", "ab", "lobar")], drop=[("sub-01", "", "ab")])
    assert path.read_text() == (
        f"{HEADER.strip()},region\nsub-01,,9,9,9,4,cmb,cd\nsub-02,,1.0000,2.0000,3.0000,4.0000,cmb,ab,lobar\n"
    )


def test_columns_in_another_order_extra_ones_and_a_byte_order_mark(tmp_path):
    columns = [*reversed(COLUMNS), "note"]
    values = {"subject": "sub-01", "x_mm": "1", "y_mm": "-2.5", "z_mm": "3", "diameter_mm": "4", "label": " cmb ", "rater": "ab"}
    text = ",".join(columns) + "\n" + ",".join(values.get(c, "") for c in columns) + "\n"
    assert read_annotations(file(tmp_path, b"\xef\xbb\xbf" + text.encode())) == [ROW]


def test_the_region_is_read_where_there_is_such_a_column(tmp_path):
    row = "sub-01,,1,2,3,4,cmb,a"
    without = read_annotations(file(tmp_path, HEADER + row + "\n"))
    given = read_annotations(file(tmp_path, HEADER.replace("rater", "rater,region") + f"{row}, lobar \n{row},\n"))
    assert ([a.region for a in without], [a.region for a in given]) == ([""], ["lobar", ""])


def test_all_faulty_rows_are_listed_with_their_lines(tmp_path):
    rows = [
        "sub-01,,1,2,3,4,cmb,a",
        "sub-02,,one,2,3,4,cmb,a",
        "",  # a blank line counts, as in every editor
        "sub-03,,1,2,3,4,bleed,a",
        "sub-04,,1,nan,3,4,cmb,a",
        "sub-05,,1,2,3,0,cmb,a",
        "sub-06,,1,2,3,4,mimic:,a",
        "sub-07,,1",
    ]
    with pytest.raises(InputError) as raised:
        read_annotations(file(tmp_path, HEADER + "\n".join(rows) + "\n"))
    message = str(raised.value)
    assert [f"line {n}:" in message for n in range(2, 10)] == [False, True, False, True, True, True, True, True]
    assert "'one'" in message and "'bleed'" in message and "nan" in message and "'mimic:'" in message


def test_missing_columns_are_named(tmp_path):
    with refused("annotations-invalid"):
        read_annotations(file(tmp_path, "subject,session,x_mm,y_mm\n"))


def test_unreadable_files(tmp_path):
    with refused("file-not-found"):
        read_annotations(tmp_path / "none.csv")
    with refused("annotations-invalid"):
        read_annotations(file(tmp_path, HEADER.encode() + "sub-01,,1,2,3,4,cmb,J\xe4ger\n".encode("latin-1")))
    with refused("annotations-invalid"):
        read_annotations(file(tmp_path, ""))


@pytest.mark.parametrize("label", ["cmb", "possible", "mimic:vessel"])
def test_labels_that_count(label):
    row = Annotation("s", "", 0.0, 0.0, 0.0, 3.0, label, "")
    assert row.is_cmb == (label == "cmb")


SPREADSHEETS = {
    "semicolons": "subject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater\nsub-01;;1.0;-2.5;3;4;cmb;ab\n",
    "decimal commas": "subject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater\r\nsub-01;;1,0;-2,5;3,00;4;cmb;ab\r\n",
    "tabs": "subject\tsession\tx_mm\ty_mm\tz_mm\tdiameter_mm\tlabel\trater\nsub-01\t\t1\t-2,5\t3\t4\tcmb\tab\n",
    "named separator": "sep=;\r\nsubject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater\r\nsub-01;;1;-2,5;3;4;cmb;ab\r\n",
    "empty last rows": HEADER + "sub-01,,1,-2.5,3,4,cmb,ab\n,,,,,,,\n,,,,,,,\n\n",
    "quoted commas": HEADER + '"sub-01","","1","-2.5","3","4","cmb","ab"\n',
}


@pytest.mark.parametrize("form", SPREADSHEETS)
def test_what_spreadsheets_write(tmp_path, form):
    assert read_annotations(file(tmp_path, SPREADSHEETS[form])) == [ROW]


def test_decimal_commas_between_commas_are_named(tmp_path):
    """`1,0,-2,5` has no one reading."""
    with refused("annotations-invalid", got="line 2: 10 values for 8 columns .*semicolons"):
        read_annotations(file(tmp_path, HEADER + "sub-01,,1,0,-2,5,3,4,cmb,ab\n"))


def test_missing_columns_name_the_separator(tmp_path):
    with refused("annotations-invalid", got="no x_mm, y_mm, separated by semicolons"):
        read_annotations(file(tmp_path, "subject;session;z_mm;diameter_mm;label;rater\n"))


def test_a_number_with_thousands_is_not_guessed(tmp_path):
    with refused("annotations-invalid", got="1.000,5"):
        read_annotations(file(tmp_path, SPREADSHEETS["semicolons"].replace("1.0", "1.000,5")))


def test_a_quotation_mark_too_many_does_not_swallow_rows(tmp_path):
    rows = ['sub-01,,1,2,3,4,cmb,"ab', "sub-02,,1,2,3,4,cmb,ab", "sub-03,,1,2,3,4,cmb,ab"]
    with refused("annotations-invalid"):
        read_annotations(file(tmp_path, HEADER + "\n".join(rows) + "\n"))
    with refused("annotations-invalid", got="several lines"):
        read_annotations(file(tmp_path, HEADER + "\n".join([*rows, 'sub-04,,1,2,3,4,cmb,ab"']) + "\n"))


def test_a_repeated_column_is_named(tmp_path):
    with refused("annotations-invalid", got="label"):
        read_annotations(file(tmp_path, HEADER.strip() + ",label\nsub-01,,1,2,3,4,cmb,ab,possible\n"))


LEFT_OUT = {  # name: (text before, text without the rows of sub-1)
    "commas": ("subject,session\nsub-1,\nsub-10,\nsub-1,ses-01\n", "subject,session\nsub-10,\n"),
    "a spreadsheet's": (
        "\ufeffsep=;\r\nlabel;session;subject\r\ncmb;; sub-1 \r\n\r\ncmb;;sub-2\r\n",
        "\ufeffsep=;\r\nlabel;session;subject\r\n\r\ncmb;;sub-2\r\n",
    ),
    "quoted": ('subject,session,region\nsub-1,,"a, b"\nsub-2,,"sub-1, b"\n', 'subject,session,region\nsub-2,,"sub-1, b"\n'),
    "no end of line": ("subject,session\nsub-2,\nsub-1,", "subject,session\nsub-2,\n"),
    "invalid rows": ("subject,session,x_mm\nsub-2\nsub-1,,?\n", "subject,session,x_mm\nsub-2\n"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_rows_are_left_out_and_all_others_stay_as_they_are(tmp_path, case):
    before, after = LEFT_OUT[case]
    (tmp_path / "a.csv").write_bytes(before.encode())
    text, number = rows_without(tmp_path / "a.csv", lambda subject, session: subject == "sub-1")
    assert (text, number) == (after, 2 if case == "commas" else 1)


def test_rows_of_one_session_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("subject,session\nsub-1,\nsub-1,ses-01\n")
    assert rows_without(tmp_path / "a.csv", lambda *row: row == ("sub-1", "ses-01"))[0] == "subject,session\nsub-1,\n"


@pytest.mark.parametrize("text", [b"", b"session,x_mm\n", b"subject,session\nm\xfcller,\n"])
def test_rows_of_a_file_without_the_columns_are_not_guessed(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text)
    with refused("annotations-invalid"):
        rows_without(tmp_path / "a.csv", lambda subject, session: False)
