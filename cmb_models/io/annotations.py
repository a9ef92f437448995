"""annotations.csv: the marked places of a dataset, one row each (columns: COLUMNS, of which OPTIONAL may be absent)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import atomic_write
from cmb_models.io.tables import SEPARATORS, Table, encoding_of, faults_by_line, header_of, read_table

MIMIC_PREFIX = "mimic:"
NONE = "none"  # the label of a row without a place: the scan was read, and this rater marked nothing in it
FARTHEST_MM = 2e4  # from the scanner's centre: no scan that passes detect.checks lies farther away


@dataclass(frozen=True)
class Annotation:
    """One annotated lesion.

    Attributes:
        subject: Folder of the subject, such as "sub-001".
        session: Folder of the session, such as "ses-1"; "" for a subject with one session.
        x_mm: Centre in scanner RAS mm, with y_mm and z_mm; finite, within FARTHEST_MM.
        diameter_mm: Diameter in the image, above 0 and below 100.
        label: "cmb", "possible" (neither counted as lesion nor as false positive) or "mimic:<kind>".
        rater: Who annotated it.
        region: Brain region in the site's terms; "" if not given.

    Raises:
        InputError: For another label, or a centre or diameter out of range.
    """

    subject: str
    session: str
    x_mm: float
    y_mm: float
    z_mm: float
    diameter_mm: float
    label: str
    rater: str
    region: str = ""

    def __post_init__(self) -> None:
        if self.label not in ("cmb", "possible") and not (self.label.startswith(MIMIC_PREFIX) and self.label != MIMIC_PREFIX):
            raise InputError(
                "annotations-invalid",
                f"annotation of {self.subject}",
                "label cmb, possible or mimic:<kind>",
                repr(self.label),
                "correct the label",
            )
        if not all(abs(v) < FARTHEST_MM for v in self.centre_mm):
            raise InputError(
                "annotations-invalid",
                f"annotation of {self.subject}",
                f"x_mm, y_mm, z_mm within {FARTHEST_MM:g} mm",
                str(self.centre_mm),
                "correct the row",
            )
        if not 0 < self.diameter_mm < 100:
            raise InputError(
                "annotations-invalid",
                f"annotation of {self.subject}",
                "diameter_mm above 0 and below 100",
                str(self.diameter_mm),
                "correct the row",
            )

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        return self.x_mm, self.y_mm, self.z_mm

    @property
    def is_cmb(self) -> bool:
        return self.label == "cmb"


@dataclass(frozen=True)
class EmptyReading:
    """A scan that a rater read without marking anything. In the file it is a row with the label NONE and no place."""

    subject: str
    session: str
    rater: str


@dataclass(frozen=True)
class Readings:
    """What annotations.csv says: the marked places, and the scans in which nothing was found. Other scans are unread."""

    annotations: list[Annotation]
    empty: list[EmptyReading]


COLUMNS = tuple(f.name for f in fields(Annotation))
OPTIONAL = ("region",)
REQUIRED = tuple(c for c in COLUMNS if c not in OPTIONAL)


def read_annotations(path: Path) -> list[Annotation]:
    """The marked places of annotations.csv, as `read_readings`."""
    return read_readings(path).annotations


def read_readings(path: Path) -> Readings:
    """Read annotations.csv.

    Args:
        path: CSV in UTF-8, or in UTF-16 with a byte order mark, with the columns COLUMNS in any order; OPTIONAL ones may be
            missing. Separated by commas, or by semicolons or tabs, as spreadsheets write it; then numbers may have a decimal comma.
            A line `sep=;` may come first. Empty rows are skipped.

    Returns:
        The rows in the file's order; none for a file with only a header.

    Raises:
        InputError: If the file or a column is missing, rows are invalid, or a rater marked something in a scan that the same rater
            found empty; all invalid rows are listed.
    """
    path = Path(path)
    table = read_table(path)
    if missing := [c for c in REQUIRED if c not in table.columns]:
        got = f"no {', '.join(missing)}, separated by {SEPARATORS.get(table.separator, repr(table.separator))}"
        raise InputError(
            "annotations-invalid", path, f"columns {', '.join(REQUIRED)}", got, "add the missing columns to its first line"
        )
    rows: list[Annotation] = []
    empty: list[EmptyReading] = []
    faults: list[tuple[int, str]] = []
    for row in table.rows:
        try:
            if row.fault:
                raise ValueError(row.fault)
            if _text(row.values, "label") == NONE:
                empty.append(_empty_reading(row.values))
            else:
                rows.append(_annotation(row.values, table))
        except (TypeError, ValueError) as error:
            faults.append((row.line, str(error)))
    if faults:
        raise InputError("annotations-invalid", path, "readable rows", faults_by_line(faults), "correct these lines")
    _require_consistent(path, rows, empty)
    return Readings(rows, empty)


def rows_without(path: Path, is_left_out: Callable[[str, str], bool]) -> tuple[str, int]:
    """The text of annotations.csv without the rows of some scans, all other lines as they are.

    Args:
        path: As of `read_readings`; numbers and labels may be invalid.
        is_left_out: Whether the rows of a subject and a session are left out.

    Returns:
        The text, and the number of rows left out.

    Raises:
        InputError: If it is not a CSV file in UTF-8 with the columns subject and session.
    """
    try:
        lines = list(io.StringIO(path.read_bytes().decode(encoding_of(path).removesuffix("-sig")), newline=""))
        first, separator, named = header_of(iter([line.removeprefix("\ufeff") for line in lines]))
        begin = 2 if named else 1
        columns = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        places = [columns.index(name) for name in ("subject", "session")]
        kept = lines[:begin]
        for line in lines[begin:]:
            values = [text.strip() for text in next(csv.reader([line], delimiter=separator), [])]
            if len(values) <= max(places) or not is_left_out(*(values[place] for place in places)):
                kept.append(line)
    except (ValueError, csv.Error) as error:
        expected = "a csv file in UTF-8 with the columns subject and session"
        raise InputError("annotations-invalid", path, expected, str(error), "correct it") from error
    return "".join(kept), len(lines) - len(kept)


def _require_consistent(path: Path, rows: list[Annotation], empty: list[EmptyReading]) -> None:
    marked = {(a.subject, a.session, a.rater) for a in rows}
    if both := sorted({(e.subject, e.session, e.rater) for e in empty} & marked):
        subject, session, rater = both[0]
        got = f"both for {'/'.join(part for part in (subject, session) if part)}{f' by {rater}' if rater else ''}"
        raise InputError("annotations-invalid", path, f"marks or the label {NONE}", got, "remove one of them")


def write_annotations(path: Path, rows: Iterable[Annotation], empty: Iterable[EmptyReading] = ()) -> None:
    """Write annotations.csv atomically, with four decimals; without rows, only the header.

    empty: scans that were read without a mark.
    """
    with atomic_write(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        readings: list[Annotation | EmptyReading] = [*rows, *empty]
        writer.writerows(_cells(reading, COLUMNS) for reading in readings)


def update_annotations(
    path: Path,
    rows: Iterable[Annotation],
    empty: Iterable[EmptyReading] = (),
    drop: Collection[tuple[str, str, str]] = (),
) -> None:
    """Add rows to annotations.csv, atomically. Its other rows, columns and its separator stay as they are written.

    drop: subjects, sessions and raters whose rows are removed.
    """
    path, rows = Path(path), list(rows)
    new: list[Annotation | EmptyReading] = [*rows, *empty]
    table = read_table(path)
    columns = [*table.columns, *(c for c in OPTIONAL if c not in table.columns and any(getattr(r, c) for r in rows))]
    kept = [r for r in table.rows if tuple(_text(r.values, c) for c in ("subject", "session", "rater")) not in drop]
    has_comma = table.separator != "," and any("," in _text(r.values, "x_mm") for r in table.rows)
    encoding = encoding_of(path)
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding=encoding) as stream:
        if table.first_line:
            stream.write(f"{table.first_line}\n")
        writer = csv.writer(stream, delimiter=table.separator, lineterminator="\n")
        writer.writerows([columns, *(r.cells for r in kept)])
        for reading in new:
            cells = _cells(reading, columns)
            writer.writerow(
                [c.replace(".", ",") if has_comma and name.endswith("_mm") else c for name, c in zip(columns, cells, strict=True)]
            )


def _cells(reading: Annotation | EmptyReading, columns: Iterable[str]) -> list[str]:
    values = {c: getattr(reading, c, NONE if c == "label" else "") for c in COLUMNS}
    return [f"{v:.4f}" if isinstance(v := values.get(c, ""), float) else str(v) for c in columns]


def _text(row: dict[str, str], column: str) -> str:
    return row.get(column, "").strip()


def _empty_reading(row: dict[str, str]) -> EmptyReading:
    if placed := [c for c in ("x_mm", "y_mm", "z_mm", "diameter_mm") if _text(row, c)]:
        raise ValueError(f"the label {NONE}, which has no place, with {', '.join(placed)}")
    return EmptyReading(_text(row, "subject"), _text(row, "session"), _text(row, "rater"))


def _annotation(row: dict[str, str], table: Table) -> Annotation:
    """One row of the file. Raises TypeError or ValueError for a missing or unreadable number."""
    text = partial(_text, row)

    def number(column: str) -> float:
        value = text(column)
        if not value:
            raise ValueError(f"no {column}")
        return table.number(value, column)

    return Annotation(
        subject=text("subject"),
        session=text("session"),
        x_mm=number("x_mm"),
        y_mm=number("y_mm"),
        z_mm=number("z_mm"),
        diameter_mm=number("diameter_mm"),
        label=text("label"),
        rater=text("rater"),
        region=text("region"),
    )
