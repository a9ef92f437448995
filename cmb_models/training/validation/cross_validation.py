"""Cross-validation of both stages over the same subject-wise folds.

What is strict here and what is not: stage 2 of fold n is trained on candidates of the other folds, and the stage 1 that mined
fold m of them was trained on fold n too. No voxel or label of fold n reaches stage 2, but which mimics it is taught was chosen
by a model that knew fold n; so were the tuned settings, whose trials were judged on all folds. `nested.py` has neither.
"""

from __future__ import annotations

from pathlib import Path

from cmb_models.config.params import Cnn, Params, Unet
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.training.data.examples import load_training
from cmb_models.training.tuning.objective import join
from cmb_models.training.validation.jobs import (
    CnnJob,
    OutOfFoldCandidates,
    UnetJob,
    fold_of,
    job_seed,
    load_candidates,
    others,
    pipeline_config,
    run_cnn_job,
    run_unet_job,
)
from cmb_models.training.validation.workers import open_workers


def candidates_out_of_fold(
    params: Params, unet: Unet, prepared_dir: Path, split: SubjectSplit, checkpoints: Path | None = None
) -> list[OutOfFoldCandidates]:
    """Stage 1 trained once a fold; candidates of each scan from the model that did not see its subject, by key."""
    folds, seed = fold_of(split), params.detect_candidates.seed
    load_training(prepared_dir, split)
    config = pipeline_config(params, params.cnn)
    jobs = [
        UnetJob(prepared_dir, others(folds, n), held, unet, config, job_seed(seed, n), checkpoints) for n, held in enumerate(folds)
    ]
    with open_workers(len(jobs)) as workers:
        results = workers.map(run_unet_job, jobs, unet.steps * len(jobs), f"stage 1, {len(jobs)} folds")
    return sorted((m for result in results for m in result), key=lambda m: m.key)


def cross_validate(
    params: Params, cnn: Cnn, prepared_dir: Path, candidates_dir: Path, split: SubjectSplit, checkpoints: Path | None = None
) -> list[ScoredScan]:
    """Both stages out of fold: stage 2 is trained once a fold on the other folds' out-of-fold candidates. Joint scores, by key."""
    folds, seed = fold_of(split), params.cross_validate.seed
    unseen = frozenset(split.get("held_out", ()))
    examples = {e.key: e for e in load_training(prepared_dir, split)}
    mined = load_candidates(candidates_dir)
    jobs = [
        CnnJob(prepared_dir, candidates_dir, others(folds, n), held, cnn, job_seed(seed, n), unseen, checkpoints)
        for n, held in enumerate(folds)
    ]
    with open_workers(len(jobs), unet=False) as workers:
        results = workers.map(run_cnn_job, jobs, cnn.steps * len(jobs), f"stage 2, {len(jobs)} folds")
    stage2 = {key: scores for result in results for key, scores in result.items()}
    return join(examples, mined, stage2, fusion_for(examples.values()))
