"""Output files of `cmb detect`: detections.csv for spreadsheets and detections.json for programs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models import __version__
from cmb_models.detection import RESEARCH_USE, Detection, DetectionResult
from cmb_models.files import atomic_write, write_json

CSV_FILE, JSON_FILE, CANDIDATES_FILE = "detections.csv", "detections.json", "candidates.csv"
FORMAT = 1  # of JSON_FILE, docs/reference/detections-1.schema.json; a change that programs would notice makes the next number
COLUMNS = ("scan", "x_mm", "y_mm", "z_mm", "i", "j", "k", "diameter_mm", "score", "stage1_score", "release", "manifest_sha256")

CANDIDATE_COLUMNS = (*COLUMNS[:10], "stage2_score", "detection", "lower_score", "release", "manifest_sha256")


@dataclass(frozen=True)
class ScanResult:
    """The result for one scan: detections or an error.

    code: of the error (errors.CODES), "" if the server failed. scan: its name in the results. file: its path as given.
    threshold: on the score, in [0, 1]; None for the release's. input_sha256: of the scan's content, as logged by servers
    (scan_id.py). warning: of a processed scan, "" for none.
    """

    scan: str
    file: str
    answer: DetectionResult | None = None
    error: str = ""
    code: str = ""
    threshold: float | None = None
    input_sha256: str = ""
    warning: str = ""

    @property
    def threshold_used(self) -> float:
        """The threshold on the calibrated score. Only for a processed scan."""
        if self.threshold is not None:
            return self.threshold
        assert self.answer is not None
        return self.answer.threshold

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The candidates at or above the threshold, best first; () for a rejected scan."""
        return self.answer.above(self.threshold_used) if self.answer else ()


def write_csv(path: Path, results: Sequence[ScanResult]) -> None:
    """Write one row per detection (COLUMNS), scans in the order given, atomically; the header alone when there are none."""
    with atomic_write(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for result in results:
            if result.answer:
                writer.writerows(_csv_row(result.scan, d, result.answer) for d in result.detections)


def _csv_row(scan: str, d: Detection, answer: DetectionResult) -> list:
    """Rounded to micrometres and millionths; the JSON has all digits."""
    numbers = [*shown_mm(d), *d.index, f"{d.diameter_mm:.2f}", f"{d.score:.6f}", f"{d.stage1_score:.6f}"]
    return [scan, *numbers, answer.release, answer.manifest_sha256]


def write_candidates(path: Path, results: Sequence[ScanResult]) -> None:
    """Write one row per candidate (CANDIDATE_COLUMNS), scans in the order given, best first, atomically.

    detection: 1 at or above the threshold, else 0. lower_score: "unet" or "cnn", the network whose score is the lower one.
    """
    with atomic_write(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CANDIDATE_COLUMNS)
        for result, answer in ((r, r.answer) for r in results if r.answer):
            for d in answer.candidates:
                *row, release, manifest = _csv_row(result.scan, d, answer)
                lower = "unet" if d.stage1_score < d.stage2_score else "cnn"
                found = int(d.score >= result.threshold_used)
                writer.writerow([*row, f"{d.stage2_score:.6f}", found, lower, release, manifest])


def shown_mm(d: Detection) -> list[str]:
    """A detection's position in micrometre steps for tables; unknown millimetres are empty."""
    return ["" if math.isnan(v) else f"{v:.3f}" for v in d.position_mm]


def write_summary(path: Path, results: Sequence[ScanResult]) -> None:
    """Write the same detections as JSON, each scan with its threshold and release, and the rejected scans with their error."""
    write_json(
        Path(path),
        {
            "format": FORMAT,
            "note": RESEARCH_USE,
            "software": f"cmb-models {__version__}",
            "scans": [_scan_entry(r, r.answer) for r in results if r.answer],
            "refused": [{"scan": r.scan, "file": r.file, "code": r.code, "error": r.error} for r in results if not r.answer],
        },
    )


def _scan_entry(result: ScanResult, answer: DetectionResult) -> dict:
    return {
        "scan": result.scan,
        "file": result.file,
        "input_sha256": result.input_sha256,
        "release": answer.release,
        "origin": answer.origin,
        "manifest_sha256": answer.manifest_sha256,
        "threshold": result.threshold_used,
        "release_threshold": answer.threshold,
        "warning": result.warning,
        "detections": [_detection_entry(d) for d in result.detections],
    }


def _detection_entry(d: Detection) -> dict:
    return {
        "world_mm": None if any(map(math.isnan, d.position_mm)) else list(d.position_mm),
        "index": list(d.index),
        "diameter_mm": d.diameter_mm,
        "score": d.score,
        "stage1_score": d.stage1_score,
        "stage2_score": d.stage2_score,
    }
