"""Output files of a comparison: comparison.csv for spreadsheets and comparison.json for programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_models import __version__
from cmb_models.client.outputs import ScanResult
from cmb_models.detection import RESEARCH_USE, Detection
from cmb_models.files import atomic_write, write_json
from cmb_models.followup.compare import TABLE, Comparison, Lesion, lesion_row

CSV_FILE, JSON_FILE, PAIRS_FILE = "comparison.csv", "comparison.json", "pairs.csv"
CUT = "a scan has more candidates than the release keeps: lesions without a counterpart are uncertain"
FORMAT = 1  # of JSON_FILE; a change that programs would notice makes the next number
COUNTS = ("new", "uncertain_new", "persisting", "uncertain_gone", "not_seen_again", "outside_baseline", "outside_followup")
PAIR_COLUMNS = (
    *("name", "baseline", "followup", "error", *COUNTS, "severity", "severity_with_uncertain"),
    *("p_none", "p_mild", "p_moderate", "p_severe"),
)
DIGITS = ("", *(".3f",) * 7, *(".6f",) * 2, ".2f", *("d",) * 2)  # of each column of TABLE: micrometres, millionths


@dataclass(frozen=True)
class Pair:
    """Two scans of a patient and what their comparison gave: a comparison, or an error with its code ("" if the server failed)."""

    name: str
    baseline: Path
    followup: Path
    comparison: Comparison | None = None
    error: str = ""
    code: str = ""


def write_lesions(path: Path, comparison: Comparison) -> None:
    """Write one row per lesion (TABLE) in the comparison's order, atomically; the header alone when there are none.

    A score or distance that does not exist is empty; is_baseline_found and is_followup_found are 1 or 0.
    """
    with atomic_write(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(TABLE)
        for lesion in comparison.lesions:
            values = zip(lesion_row(lesion, comparison.threshold), DIGITS, strict=True)
            writer.writerow([_text(value, digits) for value, digits in values])


def _text(value: Any, digits: str) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else format(value, digits)


def write_comparison(path: Path, comparison: Comparison, baseline: ScanResult, followup: ScanResult) -> None:
    """Write a comparison with all digits, its registration and both scans, as JSON."""
    found = comparison.registration
    write_json(
        Path(path),
        {
            "format": FORMAT,
            "note": RESEARCH_USE,
            "software": f"cmb-models {__version__}",
            "baseline": _scan(baseline),
            "followup": _scan(followup),
            "release": comparison.followup.release,
            "origin": comparison.followup.origin,
            "manifest_sha256": comparison.followup.manifest_sha256,
            "threshold": comparison.threshold,
            "registration": {
                "kind": found.kind,
                "baseline_to_followup_mm": found.moving_to_fixed.tolist(),
                "detail": found.detail,
                "wrong_detail": found.wrong_detail,
                "overlap": found.overlap,
                "common": found.common,
                "rotation_deg": found.rotation_deg,
                "shift_mm": found.shift_mm,
                "inconsistency_mm": found.inconsistency_mm,
            },
            "tolerance_mm": comparison.tolerance_mm,
            "counts": {name.replace("-", "_"): n for name, n in comparison.counts.items()},
            "severity": comparison.severity,
            "severity_with_uncertain": comparison.severity_with_uncertain,
            "severity_probabilities": comparison.probabilities,
            "expected_new": comparison.expected_new,
            "candidates_cut": dict(zip(("baseline", "followup"), comparison.is_cut, strict=True)),
            "lesions": [_lesion(lesion) for lesion in comparison.lesions],
        },
    )


def _scan(result: ScanResult) -> dict:
    return {"scan": result.scan, "file": result.file, "input_sha256": result.input_sha256}


def _lesion(lesion: Lesion) -> dict:
    return {
        "change": lesion.change,
        "baseline": _side(lesion.baseline_mm, lesion.baseline),
        "followup": _side(lesion.followup_mm, lesion.followup),
        "distance_mm": None if math.isnan(lesion.distance_mm) else lesion.distance_mm,
    }


def _side(place_mm: tuple[float, float, float], found: Detection | None) -> dict:
    """world_mm: the candidate's place, else the mapped one of the other scan; its other values are null without a candidate."""
    return {
        "world_mm": list(place_mm),
        "index": None if found is None else list(found.index),
        "diameter_mm": None if found is None else found.diameter_mm,
        "score": None if found is None else found.score,
    }


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write one row per pair (PAIR_COLUMNS), atomically: counts and severity, or the error's code."""
    with atomic_write(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, PAIR_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        for pair in pairs:
            row: dict[str, Any] = {"name": pair.name, "baseline": str(pair.baseline), "followup": str(pair.followup)}
            if (found := pair.comparison) is None:
                writer.writerow(row | {"error": pair.code or "server-failed"})
                continue
            row |= {name.replace("-", "_"): n for name, n in found.counts.items()}
            row |= {"severity": found.severity, "severity_with_uncertain": found.severity_with_uncertain}
            writer.writerow(row | {f"p_{name}": f"{p:.6f}" for name, p in found.probabilities.items()})
