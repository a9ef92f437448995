"""Tables as text, as people and spreadsheets write them: separated by commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import system_reason

LARGEST = 2**24  # bytes: a thousand scans with twenty marks each have one tenth of that
SHOWN = 20  # names or rows in a message
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
SEPARATOR_LINE = re.compile(r"sep=(?P<separator>.)", re.IGNORECASE)  # the line by which a file names its separator to Excel


@dataclass(frozen=True)
class Row:
    """One row of a table. fault: why it cannot be read, "" if it can."""

    line: int
    cells: tuple[str, ...]
    values: dict[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """A table with named columns. separator: between its columns. first_line: that which names the separator, "" if none does."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    separator: str
    first_line: str = ""

    def number(self, text: str, column: str) -> float:
        """A finite number of this table; with a decimal comma where commas do not separate. Raises ValueError if it is none."""
        is_comma = self.separator != "," and text.count(",") == 1 and "." not in text
        plain = text.replace(",", ".") if is_comma else text
        if not NUMBER.fullmatch(plain) or not math.isfinite(value := float(plain)):
            raise ValueError(f"{column} {text!r}, which is no number")
        return value


def read_table(path: Path) -> Table:
    """Read a table of UTF-8 text with a header. A line `sep=;` may come before it; empty rows are left out.

    Raises:
        InputError: If the file is missing, is no such text, or has a column twice. Other faults are those of rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("file-not-found", path, "a csv file", "no such file", "check the path")
    try:
        if (size := path.stat().st_size) > LARGEST:
            expected, got = f"a csv file of at most {LARGEST / 1e6:.0f} MB", f"one of {size / 1e6:.0f} MB"
            raise InputError("annotations-invalid", path, expected, got, "check what it holds")
        return _read(path)
    except (UnicodeError, csv.Error) as error:
        raise InputError("annotations-invalid", path, "a csv file in UTF-8", str(error), "save it again as CSV UTF-8") from error
    except OSError as error:
        got = system_reason(error)
        raise InputError("file-not-readable", path, "a file that may be read", got, "check its permissions") from error


def encoding_of(path: Path) -> str:
    """The encoding of a text by its byte order mark; UTF-8 without one. Excel's "Unicode text" is UTF-16."""
    with path.open("rb") as stream:
        start = stream.read(3)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return "utf-8-sig" if start == codecs.BOM_UTF8 else "utf-8"


def _read(path: Path) -> Table:
    with path.open(newline="", encoding=encoding_of(path)) as stream:
        first, separator, named = header_of(stream)
        reader = csv.reader(itertools.chain([first], stream), delimiter=separator, strict=True)
        columns = tuple(name.strip() for name in next(reader, []))
        require_columns_once(path, columns)
        rows = []
        for cells in reader:
            if any(text.strip() for text in cells):
                values = dict(zip(columns, (text.strip() for text in cells), strict=False))
                rows.append(Row(reader.line_num + bool(named), tuple(cells), values, _fault(cells, columns, separator)))
    return Table(columns, tuple(rows), separator, named)


def header_of(lines: Iterator[str]) -> tuple[str, str, str]:
    """The line of a table that names its columns, their separator, and the line before it that names the separator, or ""."""
    first, named = next(lines, ""), ""
    if found := SEPARATOR_LINE.fullmatch(first.strip().strip('"')):
        first, named = next(lines, ""), first.strip()
    return first, found["separator"] if found else max(SEPARATORS, key=first.count), named


def faults_by_line(faults: Iterable[tuple[int, str]]) -> str:
    """Faults of rows for a message, those that are alike together: "lines 3, 5-8: no Patient; line 9: the label 'x'"."""
    lines: dict[str, list[int]] = defaultdict(list)
    for line, fault in faults:
        lines[fault].append(line)
    texts = [f"line{'s' if len(at) > 1 else ''} {_ranges(at)}: {fault}" for fault, at in lines.items()]
    return "; ".join(texts[:SHOWN]) + (f"; and {len(texts) - SHOWN} more faults" if len(texts) > SHOWN else "")


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as "3, 5-8"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def require_columns_once(path: Path, columns: tuple[str, ...]) -> None:
    """Raise InputError if a table has several columns of one name."""
    if repeated := sorted(c for c, n in Counter(columns).items() if c and n > 1):
        raise InputError("annotations-invalid", path, "each column once", ", ".join(repeated[:SHOWN]), "remove one of them")


def _fault(cells: list[str], columns: tuple[str, ...], separator: str) -> str:
    if len(cells) > len(columns):
        hint = " (decimal commas? separate the columns by semicolons then)" if separator == "," else ""
        return f"{len(cells)} values for {len(columns)} columns{hint}"
    if any("\n" in text for text in cells):
        return "a value over several lines (a quotation mark too many?)"
    return ""
