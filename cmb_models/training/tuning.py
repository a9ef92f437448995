"""Optuna over subject-wise folds: several trials side by side, fold by fold, pruned between folds, resumed after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from cmb_models.training.identity import digest

Fold = int
Evaluate = Callable[[Sequence[tuple[dict[str, float], int]], Fold], list[float]]

STUDIES = Path("studies")
LOG_SCALE = frozenset({"learning_rate", "weight_decay"})  # quantities whose ratio matters, not their difference


def study_name(stage: str, *what: object) -> str:
    """Name of a study: the stage and a hash of all that its values depend on, so that changed data or settings start anew."""
    return f"{stage}-{digest(*what)}"


def open_study(name: str, seed: int, storage: str | None = None) -> optuna.Study:
    """Create or resume a maximising study. `storage`: an Optuna URL; without one, SQLite under studies/ in the workspace.

    Trials that a killed run left running are marked failed and count for nothing; finished ones are kept.
    """
    if storage is None:
        STUDIES.mkdir(exist_ok=True)
        storage = f"sqlite:///{STUDIES / 'optuna.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A seed that moves with the number of trials done, or a resumed sampler would propose the first points again.
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=4)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def tune(
    study: optuna.Study,
    search: dict[str, tuple[float, float]],
    trials: int,
    first: dict[str, float],
    folds: int,
    side_by_side: int,
    evaluate: Evaluate,
) -> optuna.trial.FrozenTrial:
    """Run until `trials` are finished (complete or pruned) and return the best.

    search: name to (low, high). first: the settings params.yaml starts from, tried as trial 0 so that tuning cannot end below them.
    evaluate([(settings, trial number), ...], fold): values of that fold in the same order; a trial's value is the mean over folds.
    """
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    recipe = {name: first[name] for name in search}
    tried = [t.params for t in study.get_trials(states=finished)]
    if recipe not in tried and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial(recipe)  # again, if a killed run cut it off
    while (missing := trials - len(study.get_trials(states=finished))) > 0:
        batch = [study.ask() for _ in range(min(side_by_side, missing))]
        _run_batch(study, batch, [_suggest(t, search) for t in batch], folds, evaluate)
    return study.best_trial


def _suggest(trial: Trial, search: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {n: trial.suggest_float(n, low, high, log=n in LOG_SCALE) for n, (low, high) in search.items()}


def _run_batch(study: optuna.Study, batch: list[Trial], chosen: list[dict[str, float]], folds: int, evaluate: Evaluate) -> None:
    """Fold by fold for all trials of the batch that are not yet pruned, so that pruning saves the later folds."""
    alive, values = list(range(len(batch))), {n: [] for n in range(len(batch))}
    for fold in range(folds):
        for n, value in zip(alive, evaluate([(chosen[n], batch[n].number) for n in alive], fold), strict=True):
            values[n].append(value)
            batch[n].report(sum(values[n]) / len(values[n]), fold)
        pruned = [n for n in alive if fold + 1 < folds and batch[n].should_prune()]
        for n in pruned:
            study.tell(batch[n], state=TrialState.PRUNED)
        alive = [n for n in alive if n not in pruned]
        if not alive:
            return
    for n in alive:
        study.tell(batch[n], sum(values[n]) / folds)


def summary(study: optuna.Study) -> dict:
    """What the report and the lineage keep of a study: its name, best trial and every trial's settings, value and state."""
    rows = [
        {"number": t.number, "state": t.state.name, "value": t.value, "params": t.params}
        for t in study.trials
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    return {"study": study.study_name, "best_trial": study.best_trial.number, "best_value": study.best_value, "trials": rows}
