"""Stage cross_validate: both stages out of fold, the least biased figures of a site's scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_models.config.params import Params, load_params
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.evaluation.plots import froc_figure
from cmb_models.evaluation.rows import write_rows
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.summary import cross_validation_metrics
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.training.checkpoint import checkpoint_directory
from cmb_models.training.tuning.objective import apply_tuned
from cmb_models.training.validation.cross_validation import cross_validate
from cmb_models.training.validation.nested import nested_cross_validate
from cmb_models.training.validation.nested_summary import NESTED, OuterFold, nested_metrics, write_nested_rows
from cmb_models.workspace.paths import CANDIDATES, CHECKPOINTS, PARAMS, PREPARED, REPORTS, SPLIT, TUNED_CNN
from cmb_models.workspace.stage import run

OUT = REPORTS / "cross_validate"
INSIDE = Path("studies/nested")  # candidates inside each outer fold; no output


def main() -> None:
    params, split = load_params(PARAMS), read_json(SPLIT)
    cnn = apply_tuned(params.cnn, read_json(TUNED_CNN))
    with checkpoint_directory(CHECKPOINTS / "cross_validate") as checkpoints:
        scans = cross_validate(params, cnn, PREPARED, CANDIDATES, split, checkpoints)
        nested = nested_cross_validate(params, PREPARED, split, INSIDE, checkpoints) if params.cross_validate.nested else []
        metrics, files = report(params, split, scans, nested)
    log_stage("cross_validate", cnn.model_dump(), metrics, files)


def report(params: Params, split: dict, scans: list[ScoredScan], nested: list[OuterFold]) -> tuple[dict, list[Path]]:
    """Write the stage's outputs; return its metrics and the files that MLflow keeps."""
    rng = np.random.default_rng(params.evaluate.seed)
    metrics, table = cross_validation_metrics(scans, split["folds"], params, rng)
    tolerance = params.evaluate.tolerance_mm
    rows = write_rows(OUT, scans, metrics["threshold"], tolerance, fusion_for(scans), split["folds"])
    write_json(OUT / "froc.json", table)
    draws = subject_draws([s.subject for s in scans], params.evaluate.bootstrap, np.random.default_rng(params.evaluate.seed))
    froc_figure(scans, metrics, tolerance, "Out of fold", OUT / "froc.png", draws)
    decided = []
    if nested:
        metrics["nested"], decided = nested_metrics(nested, params, np.random.default_rng(params.evaluate.seed))
    write_nested_rows(OUT / NESTED, decided, tolerance)
    write_json(OUT / "metrics.json", metrics | {"notes": split["notes"]})
    return metrics, [OUT / "froc.png", *rows]


if __name__ == "__main__":
    run(main)
