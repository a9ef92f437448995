"""3D Slicer's point lists: markups (.mrk.json) and the older fiducials (.fcsv).

https://slicer.readthedocs.io/en/latest/developer_guide/modules/markups.html
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.importing.marks.forms.anatomy import is_region
from cmb_models.importing.marks.reading import (
    ANY,
    IGNORE,
    LPS,
    RAS,
    VOXEL0,
    Mark,
    Options,
    Reading,
    damaged,
    ignored_note,
    label_options,
    listed,
    position_of,
)
from cmb_models.io.annotations import MIMIC_PREFIX, NONE

MARKUPS, FCSV = "markups", "fcsv"
SHOWN = 40  # characters of a text in a message
DIAMETER_REMEDY = "write it into the description of each point, such as 3.5 mm, or pass --diameter-mm"
POINTS = ("Fiducial", "PointList")
# Before Slicer 4.11 the enumeration of vtkMRMLStorageNode was written.
SYSTEMS = {"RAS": RAS, "LPS": LPS, "IJK": VOXEL0, "0": RAS, "1": LPS, "2": VOXEL0}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
FCSV_HEADER = re.compile(r"#\s*(?P<key>\w+)\s*=\s*(?P<value>.*)")
NUMBER = r"(?P<mm>\d+(?:[.,]\d+)?)"
WITH_UNIT = re.compile(rf".*?\b(?:(?:d|diam\w*|size)\s*[=:]?\s*)?{NUMBER}\s*mm\b.*", re.IGNORECASE)
DIAMETERS = (  # of a description
    re.compile(rf"{NUMBER}(\s*mm)?", re.IGNORECASE),
    re.compile(rf".*\b(?:d|diam\w*|size)\s*[=:]?\s*{NUMBER}(\s*mm)?\b.*", re.IGNORECASE),
    WITH_UNIT,
)
MEASURE = re.compile(r"[\s,;(]*(?:\b(?:d|diam\w*|size)\s*[=:]?\s*)?\b\d+(?:[.,]\d+)?\s*mm\b[\s,;)]*", re.IGNORECASE)
COUNTER = re.compile(r"([-_ ]\d+)+$")  # a point's name is the list's and a number, unless the reader gives it another
UNNAMED = re.compile(r"(f|p|fiducial|markupsfiducial|point|pointlist)?([-_ ]?\d+)*", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """A point as a file has it. of_list: name of its list. measured_mm: diameter that is said of the whole list."""

    position: tuple[float, float, float]
    frame: str
    label: str
    description: str
    of_list: str = ""
    measured_mm: float | None = None


def read_markups(file: Path, options: Options) -> Reading:
    """Read the point lists of a .mrk.json file; other markups, such as lines, are noted.

    Raises:
        InputError: If the file is damaged, has no point list, or a point lacks what the options do not say either.
    """
    try:
        markups = json.loads(file.read_bytes())["markups"]
        lists = [m for m in markups if m["type"] in POINTS]
        others = [f"{m['type']} {m.get('name', '')}".strip() for m in markups if m["type"] not in POINTS]
        points = [point for m in lists for point in _points(file, m, options)]
        marks = _marks(file, points, options)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(file, ".mrk.json", f"{type(error).__name__}: {error}") from error
    if not lists:
        raise InputError("marks-form", file, "a point list", ", ".join(others) or "no markups", "mark lesions as points")
    states_frame = any(m.get("coordinateSystem") is not None for m in lists)
    note = "; ".join(
        filter(None, [f"skipped: {', '.join(others)}" if others else "", _note(points, options, len(points) - len(marks))])
    )
    return Reading(file, MARKUPS, tuple(marks), states_frame=states_frame, note=note)


def _points(file: Path, markup: Mapping[str, Any], options: Options) -> list[Point]:
    units = markup.get("coordinateUnits", "mm")
    if {units} != {"mm"} if isinstance(units, str) else set(units) != {"mm"}:
        raise ValueError(f"coordinates in {units}")
    system = markup.get("coordinateSystem")
    frame = options.frame_of(file, "" if system is None else SYSTEMS[str(system)], "its points", usual=LPS)
    measured = [m["value"] for m in markup.get("measurements", ()) if re.match("diameter|size", m["name"], re.I) and "value" in m]
    measured_mm = float(measured[0]) if measured else None
    of_list = _list_name(_one_line(markup.get("name")), file, options)
    points = []
    for point in markup["controlPoints"]:
        if point.get("positionStatus", "defined") != "defined":  # a place that was kept for a point
            continue
        label, description = (_one_line(point.get(key)) for key in ("label", "description"))
        points.append(Point(position_of(point["position"]), frame, label, description, of_list, measured_mm))
    return points


def _marks(file: Path, points: Sequence[Point], options: Options) -> list[Mark]:
    """Points as marks, without those to be ignored.

    Raises:
        InputError: Listing the labels that are not known.
        ValueError: For the label NONE.
    """
    labels = [label_of_point(point.label, point.description, point.of_list, options) for point in points]
    texts = [p.description if p.description.lower().startswith(MIMIC_PREFIX) else p.label for p in points]
    if unknown := dict.fromkeys(text for text, label in zip(texts, labels, strict=True) if label is None):
        got = ", ".join(repr(text[:SHOWN]) for text in unknown)
        remedy = label_options(COUNTER.sub("", text)[:SHOWN] for text in unknown)
        raise InputError("marks-option", file, "points whose labels are known", got, remedy)
    if NONE in labels:
        raise ValueError(f"a point with the label {NONE}")
    return [_mark(file, p, str(label), options) for p, label in zip(points, labels, strict=True) if label != IGNORE]


def label_of_point(name: str, description: str, of_list: str, options: Options) -> str | None:
    """The label of a point by its description, its name, or its list's where it has no name of its own; None if it is not known."""
    plain, described = (MEASURE.sub(" ", text).strip() for text in (name, description))
    for text in (description, described, name):
        if text and text in options.labels:
            return options.labels[text]
    found = options.named_label(described)
    if not found and described.lower().startswith(MIMIC_PREFIX):  # of a kind that is not allowed
        return options.labels.get(ANY)
    found = found or _named(plain, options)
    is_unnamed = UNNAMED.fullmatch(plain) is not None
    if not found and is_unnamed:
        found = IGNORE if of_list == IGNORE else _named(of_list, options)
    return found or options.labels.get(ANY) or ("cmb" if is_unnamed else None)


def _list_name(name: str, file: Path, options: Options) -> str:
    """The name of a list; the label that its file's name says where it has none of its own."""
    return options.label_in_name(file) if UNNAMED.fullmatch(name) else name


def _named(name: str, options: Options) -> str | None:
    """The label that the name of a point or list means, with or without its number."""
    return options.named_label(COUNTER.sub("", name)) or options.named_label(name)


def _mark(file: Path, point: Point, label: str, options: Options) -> Mark:
    size_mm = diameter_in(point.description)
    if size_mm is None:
        size_mm = _in_mm(WITH_UNIT.fullmatch(point.label))  # a bare number is the point's
    if size_mm is None:
        size_mm = point.measured_mm
    described = MEASURE.sub(" ", point.description).strip()
    return Mark(
        point.position,
        point.frame,
        options.diameter_of(file, size_mm, DIAMETER_REMEDY),
        label,
        described if is_region(described) else "",
    )


def _note(points: Sequence[Point], options: Options, ignored: int) -> str:
    """What of some points is not kept."""
    texts = dict.fromkeys(p.description for p in points)
    plain = {text: MEASURE.sub(" ", text).strip() for text in texts}
    lost = [
        repr(text[:SHOWN])
        for text, rest in plain.items()
        if not (not rest or is_region(rest) or options.named_label(rest) or text in options.labels or diameter_in(rest) is not None)
    ]
    parts = [f"descriptions not kept, which are no regions: {listed(lost)}"] if lost else []
    if lists := dict.fromkeys(repr(p.of_list[:SHOWN]) for p in points if _says_nothing(p, options)):
        parts.append(f"points without names, taken as cmb, in a list named {listed(lists)}: --label says what such a name means")
    return "; ".join(parts + ([ignored_note(ignored)] if ignored else []))


def _says_nothing(point: Point, options: Options) -> bool:
    """Whether a point is a microbleed only for lack of a name, and its list's is of something unknown."""
    of_list = "" if _named(point.of_list, options) or ANY in options.labels else point.of_list
    unknown = label_of_point(point.label, point.description, "possible", options) == "possible"
    return bool(of_list) and unknown and label_of_point(point.label, point.description, of_list, options) == "cmb"


def diameter_in(text: str) -> float | None:
    """The diameter in mm that a description names, such as "3.5", "3,5 mm" or "d = 3.5"; None if it names none."""
    return next((_in_mm(match) for pattern in DIAMETERS if (match := pattern.fullmatch(text))), None)


def _in_mm(match: re.Match[str] | None) -> float | None:
    return float(match["mm"].replace(",", ".")) if match else None


def _one_line(text: object) -> str:
    return " ".join(str(text or "").split())


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
        points = []
        for cells in csv.reader((line for line in lines if line.strip() and not line.startswith("#")), strict=True):
            row = dict(zip(columns, cells, strict=False))
            label, description = (_one_line(row.get(key)) for key in ("label", "desc"))
            points.append(Point(position_of(row[c] for c in "xyz"), frame, label, description, options.label_in_name(file)))
        marks = _marks(file, points, options)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise damaged(file, ".fcsv", f"{type(error).__name__}: {error}") from error
    return Reading(file, FCSV, tuple(marks), states_frame=bool(system), note=_note(points, options, len(points) - len(marks)))
