"""What stage 2 learns in how many steps: with and without the fixed filters in front, with and without inserted lesions.

    python -m research.stage2_steps --workspace FOLDER [--steps 120 --steps 600] [--seeds 1]

Out of fold on a workspace that was trained before: the folds, candidates and recipe are its own, all trainings take part in one
run, and stage 1's scores are the same for all. Nothing locked is looked at. Writes research/results/stage2_steps.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import typer
from torch import nn

from cmb_models.config.params import Cnn, load_params
from cmb_models.detect.line_filters import CHANNELS
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import froc, mean_sensitivity
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.files import read_json, write_json
from cmb_models.training.data.examples import load_training
from cmb_models.training.tuning.objective import apply_tuned, join
from cmb_models.training.validation.jobs import CnnJob, fold_of, job_seed, load_candidates, others, run_cnn_job
from cmb_models.training.validation.workers import Workers

ROOT = Path(__file__).resolve().parent.parent
RATES = (0.25, 0.6, 1.0, 2.0)  # false positives a scan at which sensitivities are read
UP_TO_FP = 2.0  # of the mean sensitivity, as in tuning
NOTHING_PLANTED = {"inserted_fraction": 0.0, "inserted_mimic_fraction": 0.0}
KINDS = {"as shipped": {}, "nothing inserted": NOTHING_PLANTED}


class NoFilters(nn.Module):
    """In place of BottomHatFilter: as many channels, the filtered ones empty. The weights are the same; it sees the image alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, _, *size = images.shape
        empty = images.new_zeros(n, CHANNELS - 1, *size)
        joined = torch.cat([images[:, :1], empty, images[:, 1:]], dim=1)
        return joined.contiguous(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class Asked:
    """One training of one fold. kind: of KINDS."""

    kind: str
    filters: bool
    job: CnnJob

    @property
    def name(self) -> tuple[str, bool, int]:
        return self.kind, self.filters, self.job.cnn.steps


def score(asked: Asked) -> dict[str, np.ndarray]:
    """Stage 2's scores (N,) of the held-out scans, by scan."""
    if asked.filters:
        return run_cnn_job(asked.job)
    with mock.patch("cmb_models.networks.cnn.BottomHatFilter", NoFilters):
        return run_cnn_job(asked.job)


def trainings(workspace: Path, cnn: Cnn, folds: list[frozenset[str]], steps: list[int], seeds: int, seed: int) -> list[Asked]:
    """Every fold, by every way and number of steps, once a seed."""
    prepared, candidates = workspace / "data/prepared", workspace / "data/candidates"
    found = []
    for count in steps:
        for kind, changed in KINDS.items():
            recipe = Cnn.model_validate(cnn.model_dump() | changed | {"steps": count})
            jobs = [
                CnnJob(prepared, candidates, others(folds, n), folds[n], recipe, job_seed(seed, n, s))
                for s in range(seeds)
                for n in range(len(folds))
            ]
            found += [Asked(kind, filters, job) for filters in (True, False) for job in jobs]
    return found


def figures(scans: list[ScoredScan], tolerance_mm: float, draws: np.ndarray) -> dict:
    """Mean sensitivity up to UP_TO_FP, and sensitivities at RATES with 95 % intervals over subjects."""
    curve = mean_sensitivity(froc(scans, tolerance_mm), UP_TO_FP)
    return {"mean_sensitivity": curve, "at_fp": froc_table(scans, tolerance_mm, draws, RATES)}


def main(
    workspace: Annotated[Path, typer.Option(help="A site's workspace after `dvc repro`.")],
    steps: Annotated[list[int] | None, typer.Option(min=4)] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    out: Path = ROOT / "research/results/stage2_steps.json",
) -> None:
    workspace, steps = workspace.resolve(), steps or [120, 600]
    params, split = load_params(workspace / "params.yaml"), read_json(workspace / "data/split.json")
    cnn, folds = apply_tuned(params.cnn, read_json(workspace / "models/tuned/cnn.json")), fold_of(split)
    examples = {e.key: e for e in load_training(workspace / "data/prepared", split)}
    mined = load_candidates(workspace / "data/candidates")
    asked = trainings(workspace, cnn, folds, steps, seeds, params.cross_validate.seed)
    with Workers(len(asked), unet=False) as workers:
        total = sum(a.job.cnn.steps for a in asked)
        results = workers.map(score, asked, total, f"stage 2, {len(asked)} trainings")
    found: dict[tuple[str, bool, int], list[ScoredScan]] = {}
    for one, result in zip(asked, results, strict=True):
        found.setdefault(one.name, []).extend(join(examples, mined, result, fusion_for(examples.values())))
    tolerance, rng = params.evaluate.tolerance_mm, np.random.default_rng(params.evaluate.seed)
    first = next(iter(found.values()))
    draws = subject_draws([s.subject for s in first], params.evaluate.bootstrap, rng)
    rows = []
    for (kind, filters, count), scans in found.items():
        alone = [replace(s, scores=s.stage2) for s in scans]
        both, second = (figures(s, tolerance, draws) for s in (scans, alone))
        rows.append({"kind": kind, "filters": filters, "steps": count, "both_stages": both, "stage_2_alone": second})
    stage1 = figures([replace(s, scores=s.stage1) for s in first], tolerance, draws)
    facts = {"scans": len(examples), "cmbs": sum(len(s.cmbs) for s in first) // seeds, "folds": len(folds), "seeds": seeds}
    facts |= {"batch": cnn.batch, "channels": list(cnn.channels)}
    write_json(out, facts | {"up_to_fp": UP_TO_FP, "stage_1_alone": stage1, "trainings": rows})
    print(f"mean sensitivity up to {UP_TO_FP:g} false positives a scan; stage 1 alone {stage1['mean_sensitivity']:.2f}")
    for row in rows:
        both, second = (row[k]["mean_sensitivity"] for k in ("both_stages", "stage_2_alone"))
        how = "with filters" if row["filters"] else "without filters"
        print(f"{row['steps']:5d} steps, {row['kind']}, {how}: both stages {both:.2f}, stage 2 alone {second:.2f}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
