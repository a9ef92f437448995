"""One cell of the scaling study: train the candidate network on some scans, measure it on two sets that it never saw."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cmb_models.config.params import Params
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.training.checkpoint import save_tensors
from cmb_models.training.data.examples import Example
from cmb_models.training.tuning.objective import scored_scan
from cmb_models.training.validation.jobs import candidates_in, fit_unet, pipeline_config
from research.ood_simulator.evaluate import sensitivity_at
from research.scaling.sets import DEVELOPMENT, OOD, PHANTOMS, examples_of

RATES = (0.25, 0.5, 1.0)  # false positives per scan
SEED = 0


@dataclass(frozen=True)
class Cell:
    """scans: to train on. steps: of the optimizer, as a multiple of params.yaml's. channels: of the U-Net's first level."""

    scans: int
    steps: float
    channels: int

    @property
    def name(self) -> str:
        return f"{self.scans}-scans-{self.steps:g}-steps-{self.channels}-channels"


def run_cell(folder: Path, cell: Cell, params: Params) -> dict:
    """Train and measure a cell; a killed training continues from its checkpoint, and the weights are kept in `folder`.

    Returns:
        The cell, seconds of training, parameters, and for each test set the FROC rows of the candidate network alone.
    """
    settings = params.unet.model_copy(
        update={
            "channels": tuple(cell.channels * 2**level for level in range(len(params.unet.channels))),
            "steps": round(cell.steps * params.unet.steps),
        }
    )
    training = examples_of(folder, DEVELOPMENT, cell.scans)
    start = time.perf_counter()
    model = fit_unet(training, settings, SEED, folder / "prepared" / DEVELOPMENT, folder / "checkpoints")
    seconds = time.perf_counter() - start
    save_tensors(folder / f"{cell.name}.pt", model.state_dict())
    scored = {name: score(examples_of(folder, name), model, params) for name in (PHANTOMS, OOD)}
    return {
        **asdict(cell),
        "optimizer_steps": settings.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds),
        "cmbs": sum(len(e.centres_mm("cmb")) for e in training),
        **{name: {"scans": len(scans)} | sensitivity_at(scans, RATES, params) for name, scans in scored.items()},
    }


def score(examples: list[Example], model: torch.nn.Module, params: Params) -> list[ScoredScan]:
    """The candidate network's candidates in prepared scans, by its own score."""
    config = pipeline_config(params, params.cnn)
    mined = [candidates_in(e, model, config, frozenset()) for e in examples]
    return [scored_scan(e, m, m.stage1_score) for e, m in zip(examples, mined, strict=True)]
