"""Nested cross-validation: for each outer fold all that a release goes through, on the other folds alone.

Inside an outer fold, with the other folds as inner ones: both stages are tuned, stage 1 mines each inner fold from the others, and
inner scores choose the threshold and the calibration. Then both stages are trained with what was found on all of the other
folds, and only now the outer fold is looked at. No model, setting, candidate or threshold that it is judged with knew it: neither
the stage 1 behind stage 2's training candidates (cross_validation.py cannot say that) nor any tuning trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmb_models.config.params import Cnn, Params, Unet
from cmb_models.dataset.entries import SubjectSplit
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.operating_point import fusion_for
from cmb_models.files import atomic_directory
from cmb_models.training.data.examples import Example, load_training
from cmb_models.training.tuning.objective import apply_tuned, join, search_cnn, search_unet
from cmb_models.training.validation.cross_validation import candidates_out_of_fold, cross_validate
from cmb_models.training.validation.jobs import (
    CnnJob,
    UnetJob,
    fold_of,
    inner_split,
    job_seed,
    load_candidates,
    others,
    pipeline_config,
    run_cnn_job,
    run_unet_job,
    save_candidates,
)
from cmb_models.training.validation.nested_summary import OuterFold
from cmb_models.training.validation.workers import open_workers


@dataclass(frozen=True)
class Inside:
    """What was found without outer fold `number`: the tuned recipes, the inner scores, and where the inner candidates lie."""

    number: int
    unet: Unet
    cnn: Cnn
    chosen: dict[str, dict]
    scans: tuple[ScoredScan, ...]
    candidates_dir: Path


def nested_cross_validate(
    params: Params, prepared_dir: Path, split: SubjectSplit, work: Path, checkpoints: Path | None = None
) -> list[OuterFold]:
    """All outer folds of split.json. work: folder for candidates and nothing that lasts.

    Finished Optuna trials are kept in a study for each outer fold, since its name hashes the subjects that take part; finished
    trainings in `checkpoints`. Raises InputError for fewer than three folds: two leave one inner fold, with nothing to train on.
    """
    folds = fold_of(split)
    if len(folds) < 3:
        raise InputError(
            "params-invalid",
            "cross_validate.nested",
            "split.folds of 3 or more",
            f"{len(folds)}",
            "use more folds, or switch it off",
        )
    examples = {e.key: e for e in load_training(prepared_dir, split)}
    found = [_inside(params, prepared_dir, split, n, work / f"outer-{n}", checkpoints) for n in range(len(folds))]
    return _judge(params, prepared_dir, examples, folds, found, checkpoints)


def _inside(
    params: Params, prepared_dir: Path, split: SubjectSplit, outer: int, candidates_dir: Path, checkpoints: Path | None
) -> Inside:
    """Tune, mine and score among the other folds, by the very functions that the stages use on all of them."""
    inner = inner_split(split, outer)
    tuned_unet = search_unet(params, prepared_dir, inner)
    unet = apply_tuned(params.unet, tuned_unet)
    mined = candidates_out_of_fold(params, unet, prepared_dir, inner, checkpoints)
    with atomic_directory(candidates_dir) as folder:
        for scan in mined:
            save_candidates(folder, scan)
    tuned_cnn = search_cnn(params, prepared_dir, candidates_dir, inner)
    cnn = apply_tuned(params.cnn, tuned_cnn)
    scans = cross_validate(params, cnn, prepared_dir, candidates_dir, inner, checkpoints)
    return Inside(outer, unet, cnn, {"unet": tuned_unet, "cnn": tuned_cnn}, tuple(scans), candidates_dir)


def _judge(
    params: Params,
    prepared_dir: Path,
    examples: dict[str, Example],
    folds: list[frozenset[str]],
    found: list[Inside],
    checkpoints: Path | None,
) -> list[OuterFold]:
    """Train both stages on all but each outer fold, and score it: first every stage 1, then every stage 2, side by side."""
    config, seed = pipeline_config(params, params.cnn), params.cross_validate.seed

    def unet_job(f: Inside) -> UnetJob:
        rest, held = others(folds, f.number), folds[f.number]
        return UnetJob(prepared_dir, rest, held, f.unet, config, job_seed(seed, f.number, 1), checkpoints)

    def cnn_job(f: Inside) -> CnnJob:
        rest, held = others(folds, f.number), folds[f.number]
        return CnnJob(prepared_dir, f.candidates_dir, rest, held, f.cnn, job_seed(seed, f.number, 2), held, checkpoints)

    with open_workers(len(found)) as workers:
        title = f"{len(found)} outer folds"
        mined = workers.map(run_unet_job, [unet_job(f) for f in found], sum(f.unet.steps for f in found), f"stage 1, {title}")
        for fold, scans in zip(found, mined, strict=True):
            for scan in scans:
                save_candidates(fold.candidates_dir, scan)
        scores = workers.map(run_cnn_job, [cnn_job(f) for f in found], sum(f.cnn.steps for f in found), f"stage 2, {title}")
    results = []
    for fold, by_scan in zip(found, scores, strict=True):
        known = load_candidates(fold.candidates_dir)
        outer = join(examples, known, by_scan, fusion_for(fold.scans))
        results.append(OuterFold(fold.number, fold.scans, tuple(outer), fold.chosen))
    return results
