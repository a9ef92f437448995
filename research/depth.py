"""What nearness to the dark outside of the brain costs: each half of a pool of scans, by networks trained on the other half.

    python -m research.depth [--seed 0] [--scans 60] [--cache research/.cache] [--out research/results/depth.json]

The pool is the one research.accuracy draws its training scans from; its test scans take no part. Stage 1 is also run on its own
training scans: what is missed there was not learned at all, whatever the number of scans. To compare two recipes run it twice.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cmb_models.config.params import Params
from cmb_models.errors import InputError
from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.evaluation.rows import lesion_rows
from cmb_models.evaluation.statistics.bootstrap import wilson
from cmb_models.files import write_json
from cmb_models.training.data.brain_mask import depth_mm
from cmb_models.training.data.examples import Example, load_examples
from cmb_models.training.data.samplers import UnetSampler
from cmb_models.training.loop import train_unet
from cmb_models.training.tuning.objective import join
from cmb_models.training.validation.jobs import (
    CnnJob,
    OutOfFoldCandidates,
    UnetJob,
    candidates_in,
    job_seed,
    pipeline_config,
    run_cnn_job,
    save_candidates,
)
from cmb_models.training.validation.progress_count import count_step
from cmb_models.training.validation.workers import Workers
from cmb_models.volume import index_from_world
from research.accuracy.scans import POOL, ROOT, ScanRequest, prepare, simulate
from research.stages import recipe_from_random

RATES = (0.5, 1.0, 2.0, 8.0)  # false positives a scan, of all depths together
NEAR_MM = 6.5  # within which microbleeds were missed before this was measured
SEED = 720  # of the scans that this was first measured on
TOUCHING, NEAR, DEEPER = "touching the outside", f"nearer than {NEAR_MM:g} mm", "deeper"
OWN, OTHER, BOTH = "stage 1 in its training scans", "stage 1 in others", "both stages in others"


def depths_mm(example: Example) -> np.ndarray:
    """Of each marked microbleed (N,): from its centre to the dark outside; 0 for one that is part of it, infinite where nothing is
    dark."""
    prepared, centres = example.prepared, example.centres_mm("cmb")
    away = depth_mm(prepared.image, prepared.spacing_mm, prepared.air)
    index = np.rint(index_from_world(centres, prepared.affine)).astype(int)
    return away[tuple(index.clip(0, np.array(away.shape) - 1).T)]


def depth_class(away_mm: float) -> str:
    return TOUCHING if away_mm == 0 else NEAR if away_mm < NEAR_MM else DEEPER


def run_half(job: UnetJob) -> tuple[list[OutOfFoldCandidates], list[OutOfFoldCandidates]]:
    """Stage 1 trained on one half: its candidates in that half and in the other."""
    examples = load_examples(job.prepared_dir)
    known, unknown = ([e for e in examples if e.subject in half] for half in (job.training, job.held_out))
    model = train_unet(UnetSampler(known, job.unet), job.seed, count_step)
    return tuple([candidates_in(e, model, job.config, job.training) for e in half] for half in (known, unknown))


def found(scans: Sequence[ScoredScan], depth: dict[str, np.ndarray], tolerance_mm: float) -> list[dict]:
    """How many are found at each of RATES: in all, and of each class of depth with Wilson's interval."""
    curve, rows = froc(scans, tolerance_mm), []
    for rate in RATES:
        sensitivity, threshold = curve.at_fp(rate)
        hits: dict[str, list[int]] = {name: [] for name in (TOUCHING, NEAR, DEEPER)}
        for row in lesion_rows(scans, threshold, tolerance_mm, fusion_for(scans)):
            if row["lesion"] >= 0:
                hits[depth_class(depth[row["scan"]][row["lesion"]])].append(row["hit"])
        classes = {n: {"found": sum(h), "of": len(h), "interval_95": wilson(sum(h), len(h))} for n, h in hits.items() if h}
        rows.append({"fp_per_scan": rate, "sensitivity": sensitivity, "by_depth": classes})
    return rows


def run(prepared: Path, params: Params, seed: int) -> dict[str, list[ScoredScan]]:
    """Scored scans for OWN, OTHER and BOTH; every scan is in each of them once."""
    examples = {e.key: e for e in load_examples(prepared)}
    subjects = sorted({e.subject for e in examples.values()})
    halves = frozenset(subjects[0::2]), frozenset(subjects[1::2])
    pairs = [(halves[n], halves[1 - n], job_seed(seed, n)) for n in range(2)]
    config = pipeline_config(params, params.cnn)
    first = [UnetJob(prepared, known, unknown, params.unet, config, s) for known, unknown, s in pairs]
    with Workers(2) as workers, tempfile.TemporaryDirectory() as folder:
        results = workers.map(run_half, first, 2 * params.unet.steps, "stage 1, two halves")
        mined = {m.key: m for _, unknown in results for m in unknown}
        for one in mined.values():
            save_candidates(Path(folder), one)
        second = [CnnJob(prepared, Path(folder), known, unknown, params.cnn, s) for known, unknown, s in pairs]
        scores = workers.map(run_cnn_job, second, 2 * params.cnn.steps, "stage 2, two halves")
    stage2 = {key: values for result in scores for key, values in result.items()}
    both = join(examples, mined, stage2, fusion_for(examples.values()))
    own = [_scored(examples[m.key], m) for known, _ in results for m in known]
    return {OWN: own, OTHER: [replace(s, scores=s.stage1) for s in both], BOTH: both}


def _scored(example: Example, mined: OutOfFoldCandidates) -> ScoredScan:
    return ScoredScan(example.key, example.subject, example.annotations, mined.centre_mm, mined.stage1_score)


def main(
    seed: int = 0,
    scans: Annotated[int, typer.Option(min=4, help="In the pool; half of them train each network.")] = ScanRequest.pool,
    cache: Path = ROOT / "research/.cache",
    out: Path = ROOT / "research/results/depth.json",
    params_file: Annotated[Path | None, typer.Option("--params", help="In place of the recipe from random weights.")] = None,
) -> None:
    params, wanted = recipe_from_random(params_file), ScanRequest(pool=scans, seed=SEED)
    prepared = prepare(cache, simulate(cache, wanted, 2), params)
    depth = {e.key: depths_mm(e) for e in load_examples(prepared)}
    parts = {n: found(s, depth, params.evaluate.tolerance_mm) for n, s in run(prepared, params, seed).items()}
    about = {"scans": scans, "pool": POOL, "pool_seed": wanted.seed, "seed": seed, "near_mm": NEAR_MM}
    write_json(out, about | {"unet": params.unet.model_dump(mode="json"), "found": parts})
    print(f"{'found at ... false positives a scan':32}" + "".join(f"{rate:>8g}" for rate in RATES))
    for name, rows in parts.items():
        print(f"{name:32}" + "".join(f"{row['sensitivity']:8.2f}" for row in rows))
        for kind, of in rows[0]["by_depth"].items():
            cells = "".join(f"{row['by_depth'][kind]['found'] / of['of']:8.2f}" for row in rows)
            print(f"{'  ' + kind + ', ' + str(of['of']):32}{cells}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
