"""Stage tune_unet: search stage 1's recipe with Optuna under subject-wise cross-validation."""

from __future__ import annotations

from cmb_models.config.params import load_params
from cmb_models.files import read_json, write_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.training.tuning.objective import search_unet
from cmb_models.workspace.paths import PARAMS, PREPARED, REPORTS, SPLIT, TUNED_UNET
from cmb_models.workspace.stage import run


def main() -> None:
    found = search_unet(load_params(PARAMS), PREPARED, read_json(SPLIT))
    metrics = {"best_value": found["best_value"], "trials": len(found["trials"])}
    write_json(TUNED_UNET, found)
    write_json(REPORTS / "tune_unet/metrics.json", metrics)
    log_stage("tune_unet", found["settings"], metrics)


if __name__ == "__main__":
    run(main)
