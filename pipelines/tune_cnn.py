"""Stage tune_cnn: search stage 2's recipe with Optuna on out-of-fold candidates."""

from __future__ import annotations

from cmb_models.config.params import load_params
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.training.tuning.objective import search_cnn
from cmb_models.workspace.paths import CANDIDATES, PARAMS, PREPARED, REPORTS, SPLIT, TUNED_CNN
from cmb_models.workspace.stage import run


def main() -> None:
    found = search_cnn(load_params(PARAMS), PREPARED, CANDIDATES, read_json(SPLIT))
    metrics = {"best_value": found["best_value"], "trials": len(found["trials"])}
    write_json(TUNED_CNN, found)
    write_json(REPORTS / "tune_cnn/metrics.json", metrics)
    log_stage("tune_cnn", found["settings"], metrics)


if __name__ == "__main__":
    run(main)
