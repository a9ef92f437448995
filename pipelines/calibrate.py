"""Stage calibrate: score calibration and the threshold of the release, from out-of-fold scores alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cmb_models.config.params import load_params
from cmb_models.dataset.leakage import calibration_subjects
from cmb_models.detect.fusion import calibrated
from cmb_models.evaluation.operating_point import decide_on
from cmb_models.evaluation.rows import read_rows
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.summary import calibration_error
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.workspace.paths import CALIBRATION, PARAMS, REPORTS, SPLIT
from cmb_models.workspace.stage import run

ROWS = REPORTS / "cross_validate"


def main() -> None:
    params, scans = load_params(PARAMS), read_rows(ROWS).scans
    # From the rows, which name their subjects; metrics.json does not record whose scores its threshold was chosen on.
    subjects = calibration_subjects(ROWS, (s.subject for s in scans), read_json(SPLIT))
    decision = decide_on(scans, params)
    write_json(CALIBRATION, {"decision": decision.model_dump(), "subjects": subjects})
    tolerance, rng = params.evaluate.tolerance_mm, np.random.default_rng(params.evaluate.seed)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, rng)
    errors = {
        "ece_before": calibration_error(scans, tolerance, draws),
        "ece_after": calibration_error([replace(s, scores=calibrated(s.scores, decision)) for s in scans], tolerance, draws),
    }
    metrics = decision.model_dump() | {name: error for name, (error, _) in errors.items()}
    metrics["intervals_95"] = {name: interval for name, (_, interval) in errors.items()}
    write_json(REPORTS / "calibrate/metrics.json", metrics)
    log_stage("calibrate", {}, metrics)


if __name__ == "__main__":
    run(main)
