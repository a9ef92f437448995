"""3D Slicer's point lists: markups (.mrk.json) and the older fiducials (.fcsv).

https://slicer.readthedocs.io/en/latest/developer_guide/modules/markups.html
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.importing.marks.reading import IGNORE, LPS, RAS, VOXEL0, Mark, Options, Reading, damaged, position_of
from cmb_models.io.annotations import NONE

MARKUPS, FCSV = "markups", "fcsv"
POINTS = ("Fiducial", "PointList")
# Before Slicer 4.11 the enumeration of vtkMRMLStorageNode was written.
SYSTEMS = {"RAS": RAS, "LPS": LPS, "IJK": VOXEL0, "0": RAS, "1": LPS, "2": VOXEL0}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
FCSV_HEADER = re.compile(r"#\s*(?P<key>\w+)\s*=\s*(?P<value>.*)")
NUMBER = r"(?P<mm>\d+(?:[.,]\d+)?)"
DIAMETERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (rf"{NUMBER}(\s*mm)?", rf".*\b(?:d|diam\w*|size)\s*[=:]?\s*{NUMBER}(\s*mm)?\b.*", rf".*\b{NUMBER}\s*mm\b.*")
)


def read_markups(file: Path, options: Options) -> Reading:
    """Read the point lists of a .mrk.json file; other markups, such as lines, are noted.

    Raises:
        InputError: If the file is damaged, has no point list, or a point lacks what the options do not say either.
    """
    try:
        markups = json.loads(file.read_bytes())["markups"]
        lists = [m for m in markups if m["type"] in POINTS]
        others = [f"{m['type']} {m.get('name', '')}".strip() for m in markups if m["type"] not in POINTS]
        marks = [mark for m in lists for mark in _points(file, m, options)]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(file, ".mrk.json", f"{type(error).__name__}: {error}") from error
    if not lists:
        raise InputError("marks-form", file, "a point list", ", ".join(others) or "no markups", "mark lesions as points")
    return Reading(file, MARKUPS, tuple(marks), note=f"skipped: {', '.join(others)}" if others else "")


def _points(file: Path, markup: Mapping[str, Any], options: Options) -> list[Mark]:
    units = markup.get("coordinateUnits", "mm")
    if {units} != {"mm"} if isinstance(units, str) else set(units) != {"mm"}:
        raise ValueError(f"coordinates in {units}")
    frame = options.frame_of(file, SYSTEMS[str(markup.get("coordinateSystem", "LPS"))], "its points")
    measured = [m["value"] for m in markup.get("measurements", ()) if re.match("diameter|size", m["name"], re.I) and "value" in m]
    marks = []
    for point in markup["controlPoints"]:
        if point.get("positionStatus", "defined") != "defined":  # a place that was kept for a point
            continue
        texts = [" ".join(str(point.get(key) or "").split()) for key in ("label", "description")]
        mark = _mark(file, position_of(point["position"]), frame, texts, options, float(measured[0]) if measured else None)
        marks += [mark] if mark else []
    return marks


def _mark(
    file: Path, position: tuple[float, float, float], frame: str, texts: list[str], options: Options, measured_mm: float | None
) -> Mark | None:
    """A point as a mark; None if it is to be ignored. texts: its label and description, either of which may name a label."""
    label = next((found for text in reversed(texts) if text and (found := options.label_of(text))), "cmb")
    if label == IGNORE:
        return None
    if label == NONE:
        raise ValueError(f"a point with the label {NONE}")
    diameters = [mm for text in reversed(texts) if (mm := diameter_in(text)) is not None]
    size_mm = diameters[0] if diameters else measured_mm
    description = texts[1]
    is_region = description and options.label_of(description) is None and diameter_in(description) is None
    return Mark(position, frame, options.diameter_of(file, size_mm), label, description if is_region else "")


def diameter_in(text: str) -> float | None:
    """The diameter in mm that a text names, such as "3.5", "3,5 mm" or "d = 3.5"; None if it names none."""
    found = next((match for pattern in DIAMETERS if (match := pattern.fullmatch(text))), None)
    return float(found["mm"].replace(",", ".")) if found else None


def read_fcsv(file: Path, options: Options) -> Reading:
    """Read a .fcsv file.

    Raises:
        InputError: If the file is damaged, or lacks what the options do not say either.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        header = {m["key"].lower(): m["value"].strip() for line in lines if (m := FCSV_HEADER.match(line))}
        if not header:
            raise ValueError("no header")
        system = header.get("coordinatesystem", "")
        frame = options.frame_of(file, SYSTEMS[system] if system else "", "its points")
        columns = header.get("columns", FCSV_COLUMNS).replace(" ", "").split(",")
        marks = []
        for cells in csv.reader((line for line in lines if line.strip() and not line.startswith("#")), strict=True):
            row = dict(zip(columns, cells, strict=False))
            texts = [" ".join(row.get(key, "").split()) for key in ("label", "desc")]
            mark = _mark(file, position_of(row[c] for c in "xyz"), frame, texts, options, None)
            marks += [mark] if mark else []
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise damaged(file, ".fcsv", f"{type(error).__name__}: {error}") from error
    return Reading(file, FCSV, tuple(marks))
