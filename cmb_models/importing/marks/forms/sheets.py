"""Tables of marks: CSV, TSV and Excel, one row a mark, columns found by their names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.importing.marks.forms.anatomy import is_region
from cmb_models.importing.marks.forms.excel import EXCEL, excel_rows
from cmb_models.importing.marks.forms.slicer import diameter_in, label_of_point
from cmb_models.importing.marks.reading import (
    ANY,
    IGNORE,
    LPS,
    RAS,
    Mark,
    Options,
    Reading,
    ignored_note,
    label_options,
    listed,
)
from cmb_models.io.annotations import NONE
from cmb_models.io.tables import Row, Table, faults_by_line, read_table, require_columns_once

TABLE = "table"
NO_SIZE = "no diameter"  # the fault of a row
NEEDED = 3  # columns of a table of marks at least: those of a place
SLICERS = "defined"  # a column that only 3D Slicer's tables of points have
ALIASES = {  # usual names of columns in lower case, by field; the first that is there counts
    "subject": (
        "subject",
        "subject_id",
        "participant_id",
        "participant",
        "patient",
        "patient_id",
        "patientid",
        "case",
        "scan",
        "image",
        "id",
    ),
    "session": ("session", "session_id", "visit", "timepoint", "time_point"),
    "diameter_mm": ("diameter_mm", "diameter", "size_mm", "size", "diam_mm", "diam", "d_mm"),
    "label": ("label", "type", "class", "category", "diagnosis", "finding", "lesion_type"),
    "rater": ("rater", "reader", "observer", "annotator"),
    "region": ("region", "location", "lobe"),
    "description": ("description", "desc"),  # in which the diameter may be
}
# Names of the three columns of a position, with the frame that they state.
PLACES = (
    ("x_mm", "y_mm", "z_mm", RAS),
    ("r", "a", "s", RAS),
    ("l", "p", "s", LPS),
    ("x", "y", "z", ""),
    ("x", "y", "slice", ""),
    ("column", "row", "slice", ""),
    ("i", "j", "k", ""),
)


def read_sheet(file: Path, options: Options) -> list[Reading]:
    """Read a table of marks.

    Returns:
        One reading per subject, session and rater that its rows name, in the order of the rows.

    Raises:
        InputError: If the file is damaged or lacks columns, or what the options do not say either; all unreadable rows are listed.
    """
    table = _excel_table(file) if file.suffix.lower() in EXCEL else read_table(file)
    columns = _columns(file, table, options)
    named = columns.pop("frame")
    what = f"columns {', '.join(columns[axis] for axis in 'xyz')}"
    # Of x_mm a program may mean anything, of l, p, s one thing.
    states_frame = bool(named) and columns["x"].lower() in ("r", "l")
    frame = options.frame_of(file, named if states_frame else "", what, usual=named)
    unlabelled = _unlabelled(table, columns.get("label", ""), options)
    found: dict[tuple[str, str, str], list[Mark]] = {}
    ignored: Counter[tuple[str, str, str]] = Counter()
    faults: list[tuple[int, str]] = []
    unknown: list[str] = []
    for row in table.rows:
        try:
            if row.fault:
                raise ValueError(row.fault)
            who = [" ".join(row.values.get(columns.get(c, ""), "").split()) for c in ("subject", "session", "rater")]
            if "subject" in columns and not who[0]:
                faults.append((row.line, f"no {columns['subject']}, which each row needs"))
            mark = _mark(file, row, table, columns, frame, options, unlabelled)
            key = (who[0], who[1], who[2])
            found.setdefault(key, []).extend([mark] if isinstance(mark, Mark) else [])
            ignored[key] += mark == IGNORE
        except UnknownLabelError as error:
            unknown.append(error.label)
            faults += [(row.line, f"the label {error.label!r}"), *([(row.line, NO_SIZE)] if error.lacks_size else [])]
        except (TypeError, ValueError) as error:
            faults.append((row.line, str(error)))
    _raise(file, table, columns, options, faults, unknown)
    unused = [c for c in table.columns if c and c not in columns.values()]  # one of them might hold the labels
    note = f"columns not used: {', '.join(unused)}" if unused else ""
    regions = dict.fromkeys(row.values.get(columns.get("region", ""), "") for row in table.rows)
    if lost := [text for text in regions if text and not _region(text, options)]:
        column = columns["region"]
        note = "; ".join(filter(None, [note, f"not kept, unless --column region={column} is passed: {listed(map(repr, lost))}"]))
    readings = []
    for key, marks in found.items():
        own = "; ".join(filter(None, [note, ignored_note(ignored[key]) if ignored[key] else ""]))
        reading = Reading(file, TABLE, tuple(marks), *key, note=own, states_frame=states_frame)
        readings.append(replace(reading, names_sessions="session" in columns))
    return readings


class UnknownLabelError(ValueError):
    """A label whose meaning neither the file nor the options say. lacks_size: whether its mark has no diameter either."""

    def __init__(self, label: str, lacks_size: bool) -> None:
        super().__init__(label)
        self.label, self.lacks_size = label, lacks_size


def _raise(
    file: Path, table: Table, columns: dict[str, str], options: Options, faults: list[tuple[int, str]], unknown: list[str]
) -> None:
    """Raise InputError with all faults of a table's rows, if there are any. unknown: labels among them."""
    lacks_sizes = any(text == NO_SIZE for _, text in faults)
    others = [c for c in table.columns if c and c not in columns.values()]
    sizes = f"pass --diameter-mm, or --column diameter_mm=NAME{f' with one of {listed(others)}' if others else ''}"
    if lacks_sizes and all(text == NO_SIZE for _, text in faults):
        raise InputError("marks-option", file, "a diameter for each mark", faults_by_line(faults), sizes)
    if faults:
        is_line = any(not text.startswith((NO_SIZE, "the label ")) for _, text in faults)
        remedies = [
            label_options(unknown) if unknown else "",
            sizes if lacks_sizes else "",
            "correct these lines" if is_line else "",
        ]
        raise InputError("annotations-invalid", file, "readable rows", faults_by_line(faults), "; ".join(filter(None, remedies)))


def _unlabelled(table: Table, column: str, options: Options) -> str | None:
    """The label of a row without one: cmb if no mark of the table has one, else what the options say of other texts."""
    texts = {row.values.get(column, "") for row in table.rows}
    return options.labels.get(ANY) if any(text and options.label_of(text) != NONE for text in texts) else "cmb"


def _mark(
    file: Path, row: Row, table: Table, columns: dict[str, str], frame: str, options: Options, unlabelled: str | None
) -> Mark | str:
    """The mark of a row; NONE for a row of a scan where nothing was found, IGNORE for one to be left out."""

    def text(field: str) -> str:
        return row.values.get(columns.get(field, ""), "")

    def number(field: str) -> float:
        if not text(field):
            raise ValueError(f"no {columns[field]} (for a scan in which nothing was found, the label {NONE})")
        return table.number(text(field), columns[field])

    if any(c.lower() == SLICERS for c in table.columns):
        label = label_of_point(text("label"), text("description"), options.label_in_name(file), options)
    elif text("label"):
        label = options.label_of(text("label"))
    elif not (label := options.label_in_name(file) or unlabelled):
        raise ValueError(f"no {columns['label']}, which other rows have; if it means cmb, pass --label '{ANY}=cmb'")
    diameter_mm = number("diameter_mm") if text("diameter_mm") else diameter_in(text("description"))
    diameter_mm = options.diameter_mm if diameter_mm is None else diameter_mm
    if label is None:
        raise UnknownLabelError(text("label"), diameter_mm is None and any(map(text, "xyz")))
    if label == NONE and any(text(c) for c in ("x", "y", "z", "diameter_mm")):
        raise ValueError(f"the label {NONE}, which has no place, with one")
    if label in (NONE, IGNORE):
        return label
    place = (number("x"), number("y"), number("z"))
    if diameter_mm is None:
        raise ValueError(NO_SIZE)
    return Mark(place, frame, diameter_mm, label, _region(text("region"), options))


def _region(text: str, options: Options) -> str:
    """The region of a row; "" of words that may name the patient, unless the options name the column."""
    return " ".join(text.split()) if "region" in options.columns or is_region(text) else ""


def _columns(file: Path, table: Table, options: Options) -> dict[str, str]:
    """The table's column by field, x, y and z among them, and the frame that their names state."""
    if absent := [name for name in options.columns.values() if name not in table.columns]:
        got = f"no {', '.join(absent)}, but {', '.join(table.columns)}"
        raise InputError("marks-form", file, "the columns that --column names", got, "correct the name")
    by_name = {re.sub("[^a-z0-9]+", "_", c.lower()).strip("_"): c for c in reversed(table.columns) if c}
    found = {}
    for field, aliases in ALIASES.items():
        if name := options.columns.get(field) or next((by_name[a] for a in aliases if a in by_name), ""):
            found[field] = name
    if "subject" not in options.columns and _counts(table, found.get("subject", "")):
        del found["subject"]
    mapped = [options.columns.get(f"{axis}_mm") or options.columns.get(axis) for axis in "xyz"]
    if all(mapped):
        frame = RAS if all(f"{axis}_mm" in options.columns for axis in "xyz") else ""
        return found | {axis: str(name) for axis, name in zip("xyz", mapped, strict=True)} | {"frame": frame}
    for *names, frame in PLACES:
        if all(name in by_name for name in names):
            return found | {axis: by_name[name] for axis, name in zip("xyz", names, strict=True)} | {"frame": frame}
    remedy = "name its columns: --column x_mm=NAME --column y_mm=NAME --column z_mm=NAME"
    got = ", ".join(c for c in table.columns if c)[:200] or "none"
    raise InputError("marks-form", file, "columns x_mm, y_mm, z_mm, or x, y, z", got, remedy)


def _counts(table: Table, column: str) -> bool:
    """Whether a column `id` numbers the rows, and so names no subjects."""
    values = [row.values.get(column, "") for row in table.rows]
    starts = ([str(n) for n in range(first, first + len(values))] for first in (0, 1))
    return column.lower() == "id" and len(values) > 1 and values in starts


def _excel_table(file: Path) -> Table:
    """The table of a sheet. Rows above it with fewer cells than a place has columns are titles."""
    rows = excel_rows(file)
    header = next((n for n, (_, cells) in enumerate(rows) if sum(map(bool, cells)) >= NEEDED), 0)
    rows = rows[header:]
    columns = tuple(rows[0][1]) if rows else ()
    require_columns_once(file, columns)
    return Table(columns, tuple(Row(n, tuple(c), dict(zip(columns, c, strict=False))) for n, c in rows[1:]), separator="")
