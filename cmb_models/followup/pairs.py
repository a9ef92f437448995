"""A table of pairs of scans."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.followup.outputs import PAIRS_FILE, Pair
from cmb_models.io.tables import faults_by_line, read_table

COLUMNS = ("baseline", "followup", "name")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # each pair's folder


def read_pairs(file: Path) -> list[Pair]:
    """Read a CSV file with the columns baseline, followup (paths relative to the file's folder) and name; others are ignored.

    Returns:
        The pairs in the file's order, at least one. Whether the scans exist is found when they are read.

    Raises:
        InputError: If the file cannot be read, has no pairs, or has rows without a path or with a name that is repeated or cannot
            be a folder's; all rows at fault are named.
    """
    file = Path(file)
    table = read_table(file)
    expected, remedy = f"the columns {', '.join(COLUMNS)}", "write one row for each pair, with a name of its own"
    if missing := [c for c in COLUMNS if c not in table.columns]:
        raise InputError("manifest-invalid", file, expected, f"none named {', '.join(missing)}", remedy)
    if not table.rows:
        raise InputError("manifest-invalid", file, "a row for each pair", "none", remedy)
    uses = Counter(row.values.get("name", "").lower() for row in table.rows)
    faults = [(row.line, row.fault) for row in table.rows if row.fault]
    for row in table.rows:
        name = row.values.get("name", "")
        if not (row.values.get("baseline") and row.values.get("followup")):
            faults.append((row.line, "no baseline or no followup"))
        if not NAME.fullmatch(name):
            faults.append((row.line, f"the name {name!r}, which is not of letters, digits, '.', '_' and '-'"))
        elif name == PAIRS_FILE:
            faults.append((row.line, f"the name {name!r}, which the table of results has"))
        elif uses[name.lower()] > 1:
            faults.append((row.line, f"the name {name!r} again"))
    if faults:
        raise InputError("manifest-invalid", file, "two scans and a name in each row", faults_by_line(faults), remedy)
    rows = (row.values for row in table.rows)
    return [Pair(r["name"], file.parent / r["baseline"], file.parent / r["followup"]) for r in rows]
