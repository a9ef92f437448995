"""What the cross_validate and evaluate stages save: metrics, FROC, and a row for every candidate and every missed lesion."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmb_models.config import Params
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.metrics import choose_threshold, froc_table, intervals, metrics_at, pooled
from cmb_models.files import replacing
from cmb_models.io.annotations import Annotation

ROW = ("scan", "subject", "x_mm", "y_mm", "z_mm", "score", "outcome", "label", "diameter_mm", "lesion")


def cross_validation_metrics(
    scans: Sequence[ScoredScan], folds: dict[str, int], params: Params, rng: np.random.Generator
) -> tuple[dict, list[dict]]:
    """Metrics at the threshold chosen on all out-of-fold scores, the same with each fold's threshold chosen on the other
    folds (`cross_fitted`, free of the optimism of choosing and counting on the same scans), intervals, and the FROC table."""
    tolerance, most = params.evaluate.tolerance_mm, params.calibrate.max_fp_per_scan
    threshold = choose_threshold(froc(scans, tolerance), most)
    metrics = metrics_at(scans, threshold, tolerance)
    metrics["intervals_95"] = intervals(scans, threshold, tolerance, params.evaluate.bootstrap, rng)
    parts = []
    for fold in sorted(set(folds.values())):
        inside = [s for s in scans if folds[s.subject] == fold]
        outside = [s for s in scans if folds[s.subject] != fold]
        parts.append((inside, choose_threshold(froc(outside, tolerance), most)))
    metrics["cross_fitted"] = pooled(parts, tolerance)
    return metrics, froc_table(scans, tolerance)


def locked_metrics(
    scans: Sequence[ScoredScan], threshold: float, params: Params, rng: np.random.Generator
) -> tuple[dict, list[dict]]:
    """Metrics on the locked test set at the bundle's threshold with intervals, and the FROC table."""
    tolerance = params.evaluate.tolerance_mm
    metrics = metrics_at(scans, threshold, tolerance)
    metrics["intervals_95"] = intervals(scans, threshold, tolerance, params.evaluate.bootstrap, rng)
    return metrics, froc_table(scans, tolerance)


def detection_rows(scans: Sequence[ScoredScan], tolerance_mm: float) -> list[dict]:
    """One row a candidate (outcome hit, false_positive or ignored, when all candidates count) and one a CMB without any (missed).

    `label` and `diameter_mm` are those of the annotation that the row is about or lies nearest to within the tolerance, so that
    false positives on annotated mimics show as such; `lesion` numbers the CMBs of a scan, -1 for none.
    """
    rows = []
    for scan in scans:
        found = match(scan, 0.0, tolerance_mm)
        for n, centre in enumerate(scan.centres_mm):
            lesion = int(found.lesion_of[n])
            about = scan.cmbs[lesion] if lesion >= 0 else _nearest(scan, centre, tolerance_mm)
            outcome = "hit" if lesion >= 0 else "ignored" if found.ignored[n] else "false_positive"
            rows.append(_row(scan, centre, scan.scores[n], outcome, about, lesion))
        for lesion in sorted(set(range(len(scan.cmbs))) - set(found.lesion_of.tolist())):
            about = scan.cmbs[lesion]
            rows.append(_row(scan, about.centre_mm, None, "missed", about, lesion))
    return rows


def _nearest(scan: ScoredScan, centre: np.ndarray, tolerance_mm: float) -> Annotation | None:
    near = [(float(np.linalg.norm(np.subtract(a.centre_mm, centre))), a) for a in scan.annotations]
    near = [(d, a) for d, a in near if d <= max(tolerance_mm, a.diameter_mm / 2)]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def _row(scan: ScoredScan, centre, score: float | None, outcome: str, about: Annotation | None, lesion: int) -> dict:
    values = [f"{c:.3f}" for c in centre] + ["" if score is None else repr(float(score)), outcome]
    values += [about.label if about else "", f"{about.diameter_mm:.2f}" if about else "", lesion]
    return dict(zip(ROW, [scan.key, scan.subject, *values], strict=True))


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write the rows of `detection_rows` as CSV, atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROW, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_scores(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and whether each is a hit (N,), of the candidates in a file of `write_rows` that are hit or false positive."""
    with Path(path).open(newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if r["outcome"] in ("hit", "false_positive")]
    if not rows:
        raise InputError(path, "scored candidates", "none", "lower mine_candidates.candidates.floor or train longer")
    return np.array([float(r["score"]) for r in rows]), np.array([r["outcome"] == "hit" for r in rows])
