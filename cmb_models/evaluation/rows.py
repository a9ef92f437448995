"""What is saved of an evaluation, and read back: a row a scan, a row a marked lesion, a row a candidate.

The rows are the whole truth: every figure of metrics.json can be computed again from them (summary.recomputed, and
nested_summary.recomputed_nested for the nested ones).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Decision, Fusion
from cmb_models.detect.fusion import before_calibration
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import Match, ScoredScan, match, reach_mm
from cmb_models.evaluation.operating_point import shortfalls
from cmb_models.files import atomic_write
from cmb_models.io.annotations import Annotation
from cmb_models.volume import triple

Row = dict[str, Any]  # by column; text where it was read
SCANS, LESIONS, DETECTIONS = "scans.csv", "lesions.csv", "detections.csv"
_PLACE = ("x_mm", "y_mm", "z_mm")
_SCORES = ("stage1_score", "stage2_score", "score")
_SIDES = ("voxel_1_mm", "voxel_2_mm", "slice_mm")
_COUNTS = ("n_cmbs", "n_candidates", "hits", "false_positives")
_MARK = (*_PLACE, "diameter_mm", "region", "rater", "slice_mm")
SCAN_ROW = ("scan", "subject", "dataset", "session", "fold", *_SIDES, "threshold", *_COUNTS)
LESION_ROW = ("scan", "subject", "dataset", "label", "lesion", *_MARK, *_SCORES, "hit", "rejected")
DETECTION_ROW = ("scan", "subject", "dataset", *_PLACE, *_SCORES, "outcome", "at_threshold", "label", "diameter_mm", "lesion")

NO_CANDIDATE = "stage 1: no candidate within tolerance"
NEIGHBOURS = "stage 1: candidate matched to a neighbouring lesion"
DOUBT_1 = "threshold: low stage 1 score"
DOUBT_2 = "threshold: low stage 2 score"
TAKEN = "threshold: candidate matched to a neighbouring lesion"


@dataclass(frozen=True)
class Saved:
    """An evaluation as read from its rows. folds: of each subject, None for a locked set. threshold: the operating point."""

    scans: tuple[ScoredScan, ...]
    folds: dict[str, int] | None
    threshold: float


def write_rows(
    folder: Path,
    scans: Sequence[ScoredScan],
    threshold: float,
    tolerance_mm: float,
    joint: Fusion,
    folds: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write scans.csv, lesions.csv and detections.csv of an evaluation, each atomically; return their paths.

    folds: each subject's, for an evaluation out of fold. joint: as in lesion_rows. Numbers that figures depend on are written
    with all their digits.
    """
    tables = {
        SCANS: (SCAN_ROW, scan_rows(scans, threshold, tolerance_mm, folds)),
        LESIONS: (LESION_ROW, lesion_rows(scans, threshold, tolerance_mm, joint)),
        DETECTIONS: (DETECTION_ROW, detection_rows(scans, threshold, tolerance_mm)),
    }
    for name, (columns, rows) in tables.items():
        _write(Path(folder) / name, columns, rows)
    return [Path(folder) / name for name in tables]


def scan_rows(
    scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, folds: Mapping[str, int] | None = None
) -> list[Row]:
    """One row a scan: its fold, its voxel's sides (ascending, the slice thickness last), and how many were marked and found."""
    rows = []
    for scan in scans:
        found = match(scan, threshold, tolerance_mm)
        session = scan.key.removeprefix(scan.subject).lstrip("_")
        values: list[object] = [scan.key, scan.subject, scan.dataset, session, "" if folds is None else folds[scan.subject]]
        values += [*(scan.voxel_mm or ("", "", "")), _digits(threshold)]
        values += [len(scan.cmbs), len(scan.scores), found.hits, found.false_positives]
        rows.append(dict(zip(SCAN_ROW, values, strict=True)))
    return rows


def lesion_rows(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, joint: Fusion) -> list[Row]:
    """One row a marked CMB, in the annotations' order, and one a place marked `possible`, which is neither hit nor missed.

    `lesion` numbers a scan's CMBs from 0 and is -1 at a possible one. Scores are those of the candidate that found it, or that
    would have with no threshold; "" where there is none. `rejected` gives the step and the reason of a miss: of a candidate below
    the threshold it names the stage whose score accounts for more of what is lacking, counting by its weight in the joint score.
    joint: how the stages' scores were joined; a release's Decision where the scores, and the threshold, were calibrated by it.
    """
    rows, joined_at = [], before_calibration(threshold, joint) if isinstance(joint, Decision) else threshold
    for scan in scans:
        at_point, at_all = match(scan, threshold, tolerance_mm), match(scan, 0.0, tolerance_mm)
        number = 0
        for about in scan.annotations:
            if about.is_cmb:
                why = partial(_doubt, scan, threshold=threshold, joint=joint, joined_at=joined_at)
                rows.append(_cmb_row(scan, number, at_point, at_all, tolerance_mm, why))
                number += 1
            elif about.label == "possible":
                rows.append(_lesion_row(scan, about, -1, None, "", ""))
    return rows


def _cmb_row(
    scan: ScoredScan, lesion: int, at_point: Match, at_all: Match, tolerance_mm: float, doubt: Callable[[int], str]
) -> Row:
    about = scan.cmbs[lesion]
    by, would = (np.flatnonzero(m.lesion_of == lesion) for m in (at_point, at_all))
    if len(by):
        return _lesion_row(scan, about, lesion, int(by[0]), 1, "")
    if len(would):
        candidate = int(would[0])
        return _lesion_row(scan, about, lesion, candidate, 0, doubt(candidate))
    away = np.linalg.norm(scan.centres_mm.reshape(-1, 3) - about.centre_mm, axis=1)
    return _lesion_row(scan, about, lesion, None, 0, NEIGHBOURS if np.any(away <= reach_mm(about, tolerance_mm)) else NO_CANDIDATE)


def _doubt(scan: ScoredScan, candidate: int, threshold: float, joint: Fusion, joined_at: float) -> str:
    """Why a candidate that reaches its lesion does not count: by which stage it lacks more to `joined_at`, on the joint score."""
    if scan.scores[candidate] >= threshold:
        return TAKEN  # above the threshold it finds the neighbour, whose own candidate lies below
    if scan.stage1 is None or scan.stage2 is None:
        return "threshold: low score"
    first, second = shortfalls(scan.stage1[candidate], scan.stage2[candidate], joint, joined_at)
    return DOUBT_2 if second > first else DOUBT_1


def _lesion_row(scan: ScoredScan, about: Annotation, lesion: int, candidate: int | None, hit: int | str, rejected: str) -> Row:
    values: list[object] = [scan.key, scan.subject, scan.dataset, about.label, lesion]
    values += [*map(_digits, about.centre_mm), _digits(about.diameter_mm)]
    values += [about.region, about.rater, "" if scan.slice_mm is None else scan.slice_mm, *_scores(scan, candidate), hit, rejected]
    return dict(zip(LESION_ROW, values, strict=True))


def detection_rows(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float) -> list[Row]:
    """One row per candidate.

    `outcome` is hit, false_positive or ignored (at a `possible` place) when all candidates count, `at_threshold` the same at the
    operating point, "" below it.

    `label` and `diameter_mm` are those of the annotation that the row is about or lies nearest to within the tolerance, so that
    false positives on annotated mimics show their kind; `lesion` numbers the CMBs of a scan, -1 for none.
    """
    rows = []
    for scan in scans:
        at_all, at_point = match(scan, 0.0, tolerance_mm), match(scan, threshold, tolerance_mm)
        for n, centre in enumerate(scan.centres_mm):
            lesion = int(at_all.lesion_of[n])
            about = scan.cmbs[lesion] if lesion >= 0 else _nearest(scan, centre, tolerance_mm)
            counted = _outcome(at_point, n) if scan.scores[n] >= threshold else ""
            values: list[object] = [scan.key, scan.subject, scan.dataset, *map(_digits, centre), *_scores(scan, n)]
            values += [
                _outcome(at_all, n),
                counted,
                about.label if about else "",
                _digits(about.diameter_mm) if about else "",
                lesion,
            ]
            rows.append(dict(zip(DETECTION_ROW, values, strict=True)))
    return rows


def _outcome(found: Match, n: int) -> str:
    return "hit" if found.lesion_of[n] >= 0 else "ignored" if found.ignored[n] else "false_positive"


def _nearest(scan: ScoredScan, centre: np.ndarray, tolerance_mm: float) -> Annotation | None:
    near = [(float(np.linalg.norm(np.subtract(a.centre_mm, centre))), a) for a in scan.annotations]
    near = [(d, a) for d, a in near if d <= reach_mm(a, tolerance_mm)]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def _scores(scan: ScoredScan, candidate: int | None) -> list[str]:
    columns = (scan.stage1, scan.stage2, scan.scores)
    return ["" if candidate is None or c is None else _digits(c[candidate]) for c in columns]


def _digits(value: float) -> str:
    """A number with all digits that it takes to read the same one back."""
    return repr(float(value))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(folder: Path, found: Sequence[Row] | None = None) -> Saved:
    """The evaluation that `write_rows` saved in a folder: its scans with their candidates and marked lesions, mimics left out.

    found: rows of other candidates in the same scans, instead of those of detections.csv.
    """
    tables = {name: read_table(Path(folder) / name) for name in _COLUMNS if found is None or name != DETECTIONS}
    if not tables[SCANS]:
        raise InputError("rows-invalid", Path(folder) / SCANS, "one row a scan", "none", "run the stage that writes it again")
    lesions, own = _by_scan(tables[LESIONS]), _by_scan(tables[DETECTIONS] if found is None else found)
    scans = tuple(_scan(row, lesions.get(row["scan"], []), own.get(row["scan"], [])) for row in tables[SCANS])
    folds = {row["subject"]: int(row["fold"]) for row in tables[SCANS] if row["fold"]}
    return Saved(scans, folds or None, float(tables[SCANS][0]["threshold"]))


_COLUMNS = {SCANS: SCAN_ROW, LESIONS: LESION_ROW, DETECTIONS: DETECTION_ROW}


def _scan(row: Row, lesions: list[Row], found: list[Row]) -> ScoredScan:
    own = row["subject"].removeprefix(f"{row['dataset']}_")
    marked = tuple(
        Annotation(
            subject=own,
            session=row["session"],
            x_mm=float(r["x_mm"]),
            y_mm=float(r["y_mm"]),
            z_mm=float(r["z_mm"]),
            diameter_mm=float(r["diameter_mm"]),
            label=r["label"],
            rater=r["rater"],
            region=r["region"],
        )
        for r in lesions
    )
    centres = np.array([[float(r[c]) for c in _PLACE] for r in found]).reshape(-1, 3)
    sides = [float(row[c]) for c in _SIDES if row[c]]
    return ScoredScan(
        key=row["scan"],
        subject=row["subject"],
        annotations=marked,
        centres_mm=centres,
        scores=np.array([float(r["score"]) for r in found]),
        stage1=_column(found, "stage1_score"),
        stage2=_column(found, "stage2_score"),
        voxel_mm=triple(sides) if sides else None,
    )


def _column(rows: list[Row], name: str) -> np.ndarray | None:
    """Values (N,) of a column; None when a stage gave none."""
    if rows and all(not r[name] for r in rows):
        return None
    return np.array([float(r[name]) for r in rows])


def _by_scan(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["scan"], []).append(row)
    return groups


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of one file of `write_rows`, as text. Raises InputError when it is missing or has other columns."""
    path, columns = Path(path), _COLUMNS[Path(path).name]
    if not path.is_file():
        raise InputError("file-not-found", path, "the saved rows of an evaluation", "no such file", "run `dvc repro`")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise InputError("rows-invalid", path, f"columns {', '.join(columns)}", "others", "run `dvc repro`")
        return list(reader)
