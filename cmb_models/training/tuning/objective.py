"""Tuning both networks: what Optuna varies and how a fold is scored. Only training subjects take part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cmb_models.config.params import Cnn, Fusion, Params, Section, TuneCnn, TuneUnet, Tuning, Unet
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.detect.fusion import fused_score
from cmb_models.evaluation.froc import froc, mean_sensitivity
from cmb_models.evaluation.matching import ScoredScan, voxel_sides_mm
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.training.data.examples import Example, load_training
from cmb_models.training.identity import content
from cmb_models.training.initial import initial_source
from cmb_models.training.tuning.storage import claimed_storage
from cmb_models.training.tuning.study import Outcome, open_study, study_name, summary, tune
from cmb_models.training.validation.jobs import (
    CnnJob,
    OutOfFoldCandidates,
    UnetJob,
    fold_of,
    job_seed,
    load_candidates,
    others,
    out_of_fold,
    pipeline_config,
    try_cnn_job,
    try_unet_job,
)
from cmb_models.training.validation.pool import TrainingPool
from cmb_models.training.validation.workers import open_workers
from cmb_models.workspace.code_lock import library_hash

Recipe = TypeVar("Recipe", bound=Section)


def apply_tuned(recipe: Recipe, tuned: dict) -> Recipe:
    """The recipe of params.yaml with the settings that tuning found (models/tuned/*.json), checked like any other."""
    return type(recipe).model_validate({**recipe.model_dump(), **tuned["settings"]})


def search_unet(params: Params, prepared_dir: Path, split: SubjectSplit) -> dict:
    """Search stage 1's recipe; the value of a trial is stage 1's mean sensitivity up to tune_unet.fp_per_scan, out of fold.

    Returns {"settings", "trial", "study", "best_value", "trials"}.
    """
    examples = {e.key: e for e in load_training(prepared_dir, split)}
    folds, settings, config = fold_of(split), params.tune_unet, pipeline_config(params, params.cnn)

    def evaluate(workers: TrainingPool, asked: Sequence[tuple[dict, int]], fold: int) -> list[Outcome | None]:
        jobs = []
        for chosen, number in asked:
            # Evaluating whole scans would take longer than a trial's few steps.
            unet = Unet.model_validate({**params.unet.model_dump(), **chosen, "steps": settings.steps, "hard_negatives_at": ()})
            seed = job_seed(settings.seed, number, fold)
            jobs.append(UnetJob(prepared_dir, others(folds, fold), folds[fold], unet, config, seed))
        mined = workers.map(try_unet_job, jobs, settings.steps * len(jobs), _title("stage 1", asked, settings, fold))
        most = settings.max_candidates_per_scan
        scored = [None if r is None else [scored_scan(examples[m.key], m, m.stage1_score) for m in r] for r in mined]
        return [None if s is None else _outcome(s, params, settings, most) for s in scored]

    data = (content(list(examples.values())), initial_source(prepared_dir))
    return _search("unet", settings, params.unet, (config, params.evaluate.tolerance_mm, split, data), folds, evaluate)


def search_cnn(params: Params, prepared_dir: Path, candidates_dir: Path, split: SubjectSplit) -> dict:
    """Search stage 2's recipe on out-of-fold candidates; the value of a trial is that of both stages' joint score.

    Returns as search_unet.
    """
    examples = {e.key: e for e in load_training(prepared_dir, split)}
    mined = load_candidates(candidates_dir)
    folds, settings, unseen = fold_of(split), params.tune_cnn, frozenset(split.get("held_out", ()))
    joint = fusion_for(examples.values())

    def evaluate(workers: TrainingPool, asked: Sequence[tuple[dict, int]], fold: int) -> list[Outcome | None]:
        jobs = []
        for chosen, number in asked:
            cnn = Cnn.model_validate({**params.cnn.model_dump(), **chosen, "steps": settings.steps})
            seed = job_seed(settings.seed, number, fold)
            jobs.append(CnnJob(prepared_dir, candidates_dir, others(folds, fold), folds[fold], cnn, seed, unseen))
        results = workers.map(try_cnn_job, jobs, settings.steps * len(jobs), _title("stage 2", asked, settings, fold))
        return [None if r is None else _outcome(join(examples, mined, r, joint), params, settings) for r in results]

    data = (content([(e, out_of_fold(e, mined, unseen)) for e in examples.values()]), initial_source(prepared_dir))
    return _search("cnn", settings, params.cnn, (params.evaluate.tolerance_mm, split, data), folds, evaluate)


def scored_scan(example: Example, mined: OutOfFoldCandidates, scores: np.ndarray) -> ScoredScan:
    """A scan's truth with its candidates with `scores` (N,)."""
    voxel_mm = voxel_sides_mm(np.linalg.norm(example.source_affine[:3, :3], axis=0))
    scores, stage1 = (np.asarray(s, dtype=np.float64) for s in (scores, mined.stage1_score))
    return ScoredScan(example.key, example.subject, example.annotations, mined.centre_mm, scores, stage1, voxel_mm=voxel_mm)


def join(
    examples: dict[str, Example], mined: dict[str, OutOfFoldCandidates], stage2: dict[str, np.ndarray], joint: Fusion
) -> list[ScoredScan]:
    """Scans with both stages' joint score and each one's own, for every scan that stage 2 scored."""
    scored = {k: np.asarray(s, dtype=np.float64) for k, s in sorted(stage2.items())}
    joined = {k: fused_score(mined[k].stage1_score, s, joint) for k, s in scored.items()}
    return [replace(scored_scan(examples[k], mined[k], joined[k]), stage2=s) for k, s in scored.items()]


def _outcome(scans: list[ScoredScan], params: Params, settings: Tuning, most_candidates: int | None = None) -> Outcome:
    """A fold's value, and by how many candidates per scan it exceeds a limit, if there is one."""
    value = mean_sensitivity(froc(scans, params.evaluate.tolerance_mm), settings.fp_per_scan)
    if most_candidates is None:
        return Outcome(value)
    return Outcome(value, {"candidates_per_scan": sum(len(s.scores) for s in scans) / len(scans) - most_candidates})


def _title(what: str, asked: Sequence[tuple[dict, int]], settings: Tuning, fold: int) -> str:
    numbers = [number + 1 for _, number in asked]
    shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"tune {what}: trial {shown} of {settings.trials}, fold {fold + 1}"


def _search(stage: str, settings: TuneUnet | TuneCnn, recipe: Section, depends_on: tuple, folds: list, evaluate: Callable) -> dict:
    """Open or resume the study of exactly this search (its name hashes all its values depend on) and finish its trials."""
    # The number of trials is left out of the name: asking for more continues with the same study.
    fixed = [x.model_dump(mode="json") if isinstance(x, Section) else x for x in (recipe, *depends_on)]
    name = study_name(stage, settings.model_dump(mode="json", exclude={"trials"}), fixed, library_hash(__name__))
    with claimed_storage(name) as storage, open_workers(settings.parallel_trials, unet=stage == "unet") as workers:
        study = open_study(name, storage)
        best = tune(
            study,
            settings.search.model_dump(exclude_none=True),
            settings.trials,
            recipe.model_dump(),
            len(folds),
            settings.parallel_trials,
            settings.seed,
            lambda asked, fold: evaluate(workers, asked, fold),
            storage.held,
        )
        report = summary(study)
    return {"settings": best.params, "trial": report["best_trial"], **report}
