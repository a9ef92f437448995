"""Stage calibrate: score calibration and the threshold of the release, from out-of-fold scores alone."""

from __future__ import annotations

from cmb_models.config import Decision
from cmb_models.detect.detector import calibrated
from cmb_models.evaluation.calibration import adaptive_ece, fit_platt
from cmb_models.evaluation.leaks import calibration_subjects
from cmb_models.evaluation.rows import read_scores
from cmb_models.files import read_json, write_json
from cmb_models.registry.tracking import log_stage
from pipelines.stage import CALIBRATION, REPORTS, SPLIT, run


def main() -> None:
    scores = REPORTS / "cross_validate/detections.csv"
    subjects = calibration_subjects(scores, read_json(SPLIT))
    joint, hit = read_scores(scores)
    slope, intercept = fit_platt(joint, hit)
    # The threshold was chosen on joint scores by cross_validate; calibration is monotone, so it keeps what passes.
    found = read_json(REPORTS / "cross_validate/metrics.json")
    uncut = Decision(slope=slope, intercept=intercept, threshold=0.0, stage2_weight=found["stage2_weight"])
    decision = uncut.model_copy(update={"threshold": float(calibrated(found["threshold"], uncut))})
    write_json(CALIBRATION, {"decision": decision.model_dump(), "subjects": subjects})
    metrics = {"threshold": decision.threshold, "slope": slope, "intercept": intercept, "stage2_weight": found["stage2_weight"]}
    metrics |= {"ece_before": adaptive_ece(joint, hit), "ece_after": adaptive_ece(calibrated(joint, uncut), hit)}
    write_json(REPORTS / "calibrate/metrics.json", metrics)
    log_stage("calibrate", {}, metrics)


if __name__ == "__main__":
    run(main)
