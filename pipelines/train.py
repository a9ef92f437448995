"""Stage train: both networks on all training subjects; stage 2 on the out-of-fold candidates."""

from __future__ import annotations

import yaml

from cmb_models.config.params import load_params
from cmb_models.files import atomic_directory, read_json
from cmb_models.registry.mlflow.tracking import log_stage
from cmb_models.training.checkpoint import checkpoint_directory
from cmb_models.training.data.examples import load_training
from cmb_models.training.final import save_weights, train_both
from cmb_models.training.initial import initial_source
from cmb_models.training.tuning.objective import apply_tuned
from cmb_models.workspace.paths import CANDIDATES, CHECKPOINTS, PARAMS, PREPARED, SPLIT, TUNED_CNN, TUNED_UNET, WEIGHTS
from cmb_models.workspace.stage import run


def main() -> None:
    params = load_params(PARAMS)
    # As it stands in the file and before training. No parameter of the stage: a gate changed later is no reason to train again.
    gate = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["gate"]
    unet, cnn = apply_tuned(params.unet, read_json(TUNED_UNET)), apply_tuned(params.cnn, read_json(TUNED_CNN))
    split = read_json(SPLIT)
    with checkpoint_directory(CHECKPOINTS / "train") as checkpoints:
        *models, compute = train_both(unet, cnn, PREPARED, CANDIDATES, split, params.train.seed, checkpoints)
        with atomic_directory(WEIGHTS) as folder:
            save_weights(folder, unet, cnn, *models, load_training(PREPARED, split), gate, initial_source(PREPARED), compute)
    log_stage("train", {f"unet_{k}": v for k, v in unet} | {f"cnn_{k}": v for k, v in cnn}, {})


if __name__ == "__main__":
    run(main)
