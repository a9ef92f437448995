"""Stage evaluate: the bundle as it ships, on the locked test scans, from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_models.bundle import BundleDetector
from cmb_models.config import load_params
from cmb_models.evaluation.leaks import check_lineage
from cmb_models.evaluation.plots import froc_figure
from cmb_models.evaluation.report import detection_rows, locked_metrics, write_rows
from cmb_models.evaluation.run import score_scans
from cmb_models.files import read_json, write_json
from cmb_models.registry.tracking import log_stage
from pipelines.stage import BUNDLE, INDEX, PARAMS, REPORTS, SPLIT, run

OUT = REPORTS / "evaluate"


def main() -> None:
    params = load_params(PARAMS)
    locked = set(read_json(SPLIT)["locked"])
    index = read_json(INDEX)["scans"]
    detector = BundleDetector(BUNDLE)
    check_lineage(detector.bundle.lineage, index, locked)
    scans = score_scans(detector, Path(params.ingest.raw_dir), [s for s in index if s["subject"] in locked])
    rng = np.random.default_rng(params.evaluate.seed)
    metrics, table = locked_metrics(scans, detector.bundle.config.decision.threshold, params, rng)
    write_rows(OUT / "detections.csv", detection_rows(scans, params.evaluate.tolerance_mm))
    write_json(OUT / "froc.json", table)
    froc_figure(scans, metrics, params.evaluate.tolerance_mm, "Locked test set", OUT / "froc.png")
    write_json(OUT / "metrics.json", metrics)
    log_stage("evaluate", {}, metrics, [OUT / "froc.png", OUT / "detections.csv"])


if __name__ == "__main__":
    run(main)
