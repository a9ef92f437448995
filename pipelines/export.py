"""Stage export: both networks as ONNX, checked against torch, with their settings and a known answer, in one bundle."""

from __future__ import annotations

from cmb_models.config.params import Decision, load_params
from cmb_models.evaluation.rows import read_rows
from cmb_models.files import atomic_directory, read_json, write_json
from cmb_models.release.export import write_bundle
from cmb_models.release.metadata import training_statistics
from cmb_models.training.final import RECIPE, load_weights
from cmb_models.training.validation.jobs import pipeline_config
from cmb_models.workspace.paths import (
    BUNDLE,
    CALIBRATION,
    INDEX,
    PARAMS,
    REPORTS,
    SPLIT,
    STATISTICS,
    TUNED_CNN,
    TUNED_UNET,
    WEIGHTS,
)
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    _, cnn, unet_model, cnn_model = load_weights(WEIGHTS)
    config = pipeline_config(params, cnn, Decision.model_validate(read_json(CALIBRATION)["decision"]))
    inputs = {"index": INDEX, "split": SPLIT, "tuned_unet": TUNED_UNET, "tuned_cnn": TUNED_CNN}
    inputs |= {"recipe": WEIGHTS / RECIPE, "calibration": CALIBRATION}
    rows = read_rows(REPORTS / "cross_validate")
    statistics = training_statistics(read_json(STATISTICS), rows.scans, config.decision)
    with atomic_directory(BUNDLE) as folder:
        parity = write_bundle(folder, unet_model, cnn_model, config, params.export, inputs, statistics)
    write_json(REPORTS / "export/metrics.json", parity)


if __name__ == "__main__":
    run(main)
