"""Stage cross_validate: both stages out of fold, the honest numbers of a site's own scans."""

from __future__ import annotations

import numpy as np

from cmb_models.config import load_params
from cmb_models.evaluation.bootstrap import subject_draws
from cmb_models.evaluation.plots import froc_figure
from cmb_models.evaluation.rows import write_rows
from cmb_models.evaluation.summary import cross_validation_metrics
from cmb_models.files import read_json, write_json
from cmb_models.registry.tracking import log_stage
from cmb_models.training.crossval import cross_validate
from cmb_models.training.search import apply_tuned
from pipelines.stage import CANDIDATES, PARAMS, PREPARED, REPORTS, SPLIT, TUNED_CNN, run

OUT = REPORTS / "cross_validate"


def main() -> None:
    params, split = load_params(PARAMS), read_json(SPLIT)
    cnn = apply_tuned(params.cnn, read_json(TUNED_CNN))
    scans = cross_validate(params, cnn, PREPARED, CANDIDATES, split)
    rng = np.random.default_rng(params.evaluate.seed)
    metrics, table = cross_validation_metrics(scans, split["folds"], params, rng)
    rows = write_rows(OUT, scans, metrics["threshold"], params.evaluate.tolerance_mm, split["folds"])
    write_json(OUT / "froc.json", table)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, np.random.default_rng(params.evaluate.seed))
    froc_figure(scans, metrics, params.evaluate.tolerance_mm, "Out of fold", OUT / "froc.png", draws)
    write_json(OUT / "metrics.json", metrics)
    log_stage("cross_validate", cnn.model_dump(), metrics, [OUT / "froc.png", *rows])


if __name__ == "__main__":
    run(main)
