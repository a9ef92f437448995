"""Excel files as rows of text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.importing.marks.reading import damaged, listed

EXCEL = (".xlsx", ".xlsm")
MOST_ROWS = 200_000  # far more than marks; an Excel file may claim a million empty ones
# In the XML of a sheet, which openpyxl reads without it where it reads row by row.
MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]+\d+:[A-Z]+(\d+))"')
TEXT = "str"  # the type of a computed text in the XML
CHUNK = 2**20  # bytes
LONGEST_TAG = 200  # bytes


def excel_rows(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of the first sheet of an Excel file with their numbers, as text, without empty ones.

    Raises:
        InputError: If it cannot be read, several of its sheets hold something, cells below the first row are merged, or formulas
            have no values: the text of these cells would be missing, which may mean something else.
    """
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[formats]', or save the table as CSV"
        raise InputError("package-missing", file, "openpyxl", "none", remedy) from error
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: _cells(sheet) for sheet in book.worksheets}
        book.close()
        merged, without_value = _merged(file), _without_value(file)
    except Exception as error:  # whatever zipfile, the XML parser and openpyxl raise for damaged files
        raise damaged(file, "Excel", error) from error
    filled = [title for title, rows in sheets.items() if rows]
    if len(filled) > 1:
        got = f"{len(filled)}: {', '.join(filled)}"
        raise InputError("marks-form", file, "one sheet with rows", got, "save the sheet with the marks as a file of its own")
    if merged:
        got, remedy = f"merged ones: {listed(merged)}", "unmerge them, and fill in each cell"
        raise InputError("marks-form", file, "a value in each cell", got, remedy)
    if without_value:
        got, remedy = f"formulas that were never computed: {listed(without_value)}", "open and save it in a spreadsheet program"
        raise InputError("marks-form", file, "a value in each cell", got, remedy)
    return sheets[filled[0]] if filled else []


def _cells(sheet: Any) -> list[tuple[int, list[str]]]:
    sheet.reset_dimensions()  # which some programs write wrongly
    rows = ((n, [_text(v) for v in row]) for n, row in enumerate(sheet.iter_rows(max_row=MOST_ROWS, values_only=True), 1))
    return [(n, cells) for n, cells in rows if any(cells)]


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _merged(file: Path) -> list[str]:
    """The merged cells below the first row, of any sheet."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.startswith("xl/worksheets/") and name.endswith(".xml")]
        found = {cells.decode(): int(last) for name in names for cells, last in _merged_of(archive, name)}
    return [cells for cells, last in found.items() if last > 1]


def _merged_of(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[bytes, bytes]]:
    rest = b""
    with archive.open(name) as stream:
        while chunk := stream.read(CHUNK):
            rest += chunk
            yield from MERGED.findall(rest)
            rest = rest[-LONGEST_TAG:]


def _without_value(file: Path) -> list[str]:
    """The cells with a formula that was never computed. One that gives no text was: its cell is of the type of texts."""
    import openpyxl

    books = [openpyxl.load_workbook(file, read_only=True, data_only=has_values) for has_values in (True, False)]
    found = []
    for sheets in zip(*(book.worksheets for book in books), strict=True):
        for sheet in sheets:
            sheet.reset_dimensions()
        for rows in zip(*(sheet.iter_rows(max_row=MOST_ROWS) for sheet in sheets), strict=True):
            pairs = zip(*rows, strict=True)
            found += [f.coordinate for value, f in pairs if f.data_type == "f" and value.value is None and value.data_type != TEXT]
    for book in books:
        book.close()
    return found
