"""Stage evaluate: the bundle as it ships, on the locked test scans, from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_models.config.params import load_params
from cmb_models.dataset.leakage import check_lineage
from cmb_models.evaluation.exposure_log import contents_of, count_evaluation, locked_scans, require_whole
from cmb_models.evaluation.plots import froc_figure
from cmb_models.evaluation.rows import write_rows
from cmb_models.evaluation.run import score_scans
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.summary import locked_metrics
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.release.bundle import BundleDetector
from cmb_models.workspace.paths import BUNDLE, EXPOSURE_LOG, INDEX, PARAMS, REPORTS, SPLIT
from cmb_models.workspace.stage import run
from cmb_models.workspace.versioning import git_commit

OUT = REPORTS / "evaluate"


def main() -> None:
    params, commit = load_params(PARAMS), git_commit(Path("."))
    require_whole(EXPOSURE_LOG)
    locked = set(read_json(SPLIT)["locked"])
    index = read_json(INDEX)["scans"]
    detector = BundleDetector(BUNDLE)
    check_lineage(detector.bundle.lineage, index, locked)
    test = [s for s in index if s["subject"] in locked]
    scans = score_scans(detector, Path(params.ingest.raw_dir), test)
    tolerance, decision = params.evaluate.tolerance_mm, detector.bundle.config.decision
    threshold = decision.threshold
    metrics, table = locked_metrics(scans, threshold, params, np.random.default_rng(params.evaluate.seed))
    # Counted before anything is written: a look that was stopped midway is still a look.
    seen = detector.bundle.manifest_sha256, locked_scans(test), commit
    metrics["locked_set"] = count_evaluation(EXPOSURE_LOG, *seen, metrics, contents_of(test))
    rows = write_rows(OUT, scans, threshold, tolerance, decision)
    write_json(OUT / "froc.json", table)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, np.random.default_rng(params.evaluate.seed))
    froc_figure(scans, metrics, tolerance, "Held-out test set", OUT / "froc.png", draws)
    write_json(OUT / "metrics.json", metrics)
    log_stage("evaluate", {}, metrics, [OUT / "froc.png", *rows])


if __name__ == "__main__":
    run(main)
