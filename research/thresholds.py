"""Does a threshold transfer? The rate of false positives it was chosen for, and the one it reaches on scans of other kinds.

    python -m research.thresholds WORKSPACE --scans NAME=FOLDER …

WORKSPACE: of a release, with reports/cross_validate and models/bundle. FOLDER: a dataset of labelled scans it never saw. Two rules
are compared: the release's threshold as it is, and one that is scaled by the new scans' own candidates, without their labels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cmb_models.config.params import load_params
from cmb_models.detect.fusion import calibrated
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import Froc, froc
from cmb_models.evaluation.matching import ScoredScan, match
from cmb_models.evaluation.rows import read_rows
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.files import read_json, write_json
from cmb_models.release.bundle import BundleDetector
from research.ood_simulator.evaluate import score
from research.stages import ROOT
from scripts.results.blocks import threshold_table

PER_SCAN = 8.0  # candidates per scan, out of fold, above the reference level: nearly all of them false
RATES = (0.25, 0.6, 1.0, 2.0)  # false positives per scan to choose for
RESAMPLES, SEED = 1000, 0


def reference_level(scans: Sequence[ScoredScan], per_scan: float = PER_SCAN) -> float:
    """The score that `per_scan` candidates per scan reach; the lowest score there is, for scans with fewer. 1 for none at all."""
    scores = np.sort(np.concatenate([s.scores for s in scans]))[::-1] if scans else np.zeros(0)
    if not len(scores):
        return 1.0
    return float(scores[min(len(scores), round(per_scan * len(scans))) - 1])


def candidates_per_scan(scans: Sequence[ScoredScan], level: float) -> float:
    """Mean number of candidates with at least this score."""
    return float(np.mean([(s.scores >= level).sum() for s in scans]))


def scaled_threshold(
    source: Froc, source_scans: Sequence[ScoredScan], unlabelled: Sequence[ScoredScan], fp_per_scan: float
) -> float:
    """The threshold expected to give `fp_per_scan` in unlabelled scans.

    Assumes that the number of false positives falls with the score as it does in the source's scans, and that the new scans have
    another number of them at every score by one factor: that of the candidates above a level so low that nearly all are false.

    Args:
        source: FROC curve of labelled scans, out of fold.
        source_scans: The same scans.
        unlabelled: Scans of a new site with their candidates; annotations are not read.
        fp_per_scan: False positives per scan to choose for.

    Returns:
        A threshold on the score; 1 where the factor is so large that no score is high enough.
    """
    level = reference_level(source_scans)
    factor = candidates_per_scan(unlabelled, level) / candidates_per_scan(source_scans, level)
    return source.at_fp(fp_per_scan / factor)[1] if factor else float(source.thresholds[-1])


def compare(source_scans: Sequence[ScoredScan], scans: Sequence[ScoredScan], tolerance_mm: float) -> list[dict]:
    """For each rate and rule: threshold, and the false positives per scan and sensitivity that it reaches in `scans`."""
    source, rows = froc(source_scans, tolerance_mm), []
    draws = subject_draws([s.subject for s in scans], RESAMPLES, np.random.default_rng(SEED))
    for rate in RATES:
        rules = {"as chosen": source.at_fp(rate)[1], "scaled": scaled_threshold(source, source_scans, scans, rate)}
        rows += [{"chosen": rate, "rule": rule, **_reached(scans, at, tolerance_mm, draws)} for rule, at in rules.items()]
    return rows


def _reached(scans: Sequence[ScoredScan], threshold: float, tolerance_mm: float, draws: np.ndarray) -> dict:
    found = [match(s, threshold, tolerance_mm) for s in scans]
    false = np.array([f.false_positives for f in found], dtype=float)
    low, high = np.percentile(draws @ false / draws.sum(axis=1), (2.5, 97.5))
    lesions = sum(len(s.cmbs) for s in scans)
    return {
        "threshold": threshold,
        "fp_per_scan": float(false.mean()),
        "interval_95": [float(low), float(high)],
        "sensitivity": sum(f.hits for f in found) / lesions if lesions else None,
    }


def main(
    workspace: Annotated[Path, typer.Argument(help="A release's workspace.")],
    scans: Annotated[list[str], typer.Option(metavar="NAME=FOLDER", help="A dataset of other scans; repeatable.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = ROOT / "research/results/thresholds.json",
) -> None:
    """Compare both rules on each dataset."""
    bundle = BundleDetector(workspace / "models/bundle")
    tolerance_mm = load_params(workspace / "params.yaml").evaluate.tolerance_mm
    rows = read_rows(workspace / "reports/cross_validate")
    decision = bundle.bundle.config.decision
    source = [replace(s, scores=calibrated(s.scores, decision)) for s in rows.scans]
    figures = {}
    for name, folder in (entry.split("=", 1) for entry in scans):
        path = Path(folder).resolve()
        figures[name] = compare(source, score(bundle, path.parent, path.name), tolerance_mm)
    write_json(out, {"manifest_sha256": bundle.bundle.manifest_sha256, "per_scan": PER_SCAN, "datasets": figures})
    print(threshold_table(read_json(out)["datasets"]))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
