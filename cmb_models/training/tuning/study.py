"""Optuna over subject-wise folds: several trials side by side, fold by fold, pruned between folds, resumed after a kill."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cmb_models.errors import InputError
from cmb_models.training.identity import digest
from cmb_models.training.tuning.storage import Storage

log = logging.getLogger(__name__)

Fold = int
LOG_SCALE = frozenset({"learning_rate", "weight_decay"})  # quantities whose ratio matters, not their difference
WHOLE = frozenset({"frozen_levels"})  # counts
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Outcome:
    """The result of one fold for some settings. over: excess over each limit by name, at most 0 where it is kept."""

    value: float
    over: Mapping[str, float] = field(default_factory=dict)


# ([(settings, number of the trial), ...], fold) to outcomes in the same order; None for a training that diverged.
Evaluate = Callable[[Sequence[tuple[dict[str, float], int]], Fold], list[Outcome | None]]


def study_name(stage: str, *what: object) -> str:
    """Name of a study: the stage and a hash of all that its values depend on, so that changed data or settings start again."""
    return f"{stage}-{digest(*what)}"


def open_study(name: str, storage: Storage) -> optuna.Study:
    """Create or resume a maximising study, which the caller has claimed (storage.claimed_storage).

    Trials that a killed run left running are marked failed and count for nothing; finished ones are kept, also those of a batch
    that was at its end and of which not all had been written as finished.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=name, storage=storage.open(), direction="maximize", load_if_exists=True)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    running = study.get_trials(states=(TrialState.RUNNING,))
    at_its_end = all("ended" in t.user_attrs for t in running)
    for trial in running:
        _finish(study, trial.number, trial.user_attrs) if at_its_end else study.tell(trial.number, state=TrialState.FAIL)
    return study


def tune(
    study: optuna.Study,
    search: dict[str, tuple[float, float]],
    trials: int,
    first: dict[str, float],
    folds: int,
    parallel_trials: int,
    seed: int,
    evaluate: Evaluate,
    held: Callable[[], None] = lambda: None,
) -> FrozenTrial:
    """Run until `trials` are finished (complete or pruned) and return the best (`best_trial`).

    search: name to (low, high), both included; values of names in WHOLE are integers. first: the settings params.yaml starts from,
    tried as trial 0 so that tuning cannot end below them.
    evaluate is asked with the trial's number among the finished ones, not Optuna's, which counts killed ones: so a run that is
    killed and resumed tries the same settings with the same seeds as one that is not. A trial's value is the mean over folds;
    one that diverges is pruned. held: called before a batch is proposed and before results are written; raises if another run may
    have the study.
    """
    recipe = {name: first[name] for name in search}
    if recipe not in [t.params for t in study.get_trials(states=FINISHED)] and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial(recipe)  # again, if a killed run cut it off
    while (done := len(study.get_trials(states=FINISHED))) < trials:
        held()
        # New for every batch, so that what is proposed depends on the finished trials alone and not on how often we began.
        study.sampler = optuna.samplers.TPESampler(seed=seed + done, n_startup_trials=4)
        batch = [study.ask() for _ in range(min(parallel_trials, trials - done))]
        chosen = [_suggest(t, search) for t in batch]
        _run_batch(study, batch, chosen, done, folds, evaluate, held)
    return best_trial(study)


def _suggest(trial: Trial, search: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {n: _suggest_one(trial, n, low, high) for n, (low, high) in search.items()}


def _suggest_one(trial: Trial, name: str, low: float, high: float) -> float:
    if name in WHOLE:
        return trial.suggest_int(name, int(low), int(high))
    return trial.suggest_float(name, low, high, log=name in LOG_SCALE)


def _run_batch(
    study: optuna.Study,
    batch: list[Trial],
    chosen: list[dict[str, float]],
    first: int,
    folds: int,
    evaluate: Evaluate,
    held: Callable[[], None],
) -> None:
    """Fold by fold for all trials of the batch that are not yet pruned, so that pruning saves the later folds.

    None is finished before all are: killed in between, the whole batch is run again, by proposals from the same finished trials.
    """
    alive = list(range(len(batch)))
    outcomes: dict[int, list[Outcome]] = {n: [] for n in alive}
    for fold in range(folds):
        found = evaluate([(chosen[n], first + n) for n in alive], fold)
        held()
        for n, outcome in zip(list(alive), found, strict=True):
            if outcome is None:
                batch[n].set_user_attr("diverged", True)
            else:
                outcomes[n].append(outcome)
                batch[n].report(_mean([o.value for o in outcomes[n]]), fold)
            if outcome is None or (fold + 1 < folds and batch[n].should_prune()):
                alive.remove(n)
        if not alive:
            break
    for n, trial in enumerate(batch):
        _write_end(trial, outcomes[n], TrialState.COMPLETE if n in alive else TrialState.PRUNED)
    for trial in batch:
        _finish(study, trial.number, trial.user_attrs)


def _write_end(trial: Trial, outcomes: list[Outcome], state: TrialState) -> None:
    """Keep what a trial came to while it still counts as running."""
    trial.set_user_attr("folds", [o.value for o in outcomes])
    for name in outcomes[0].over if outcomes else ():
        trial.set_constraint(name, _mean([o.over[name] for o in outcomes]))  # TPE then prefers regions within the limits
    trial.set_user_attr("ended", state.name)


def _finish(study: optuna.Study, number: int, about: Mapping) -> None:
    """Finish a trial by what `_write_end` kept of it. number: Optuna's."""
    state = TrialState[about["ended"]]
    study.tell(number, _mean(about["folds"]) if state == TrialState.COMPLETE else None, state=state)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial with the highest value among those that keep all limits, or among all if none does (with a warning).

    Raises InputError when every trial diverged.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        got = f"{len(study.get_trials(states=FINISHED))} that all diverged"
        raise InputError(
            "study-without-trial",
            f"study {study.study_name}",
            "a trial that trains",
            got,
            "lower the search's learning rates, look at the scans",
        )
    kept = [t for t in complete if all(over <= 0 for over in t.constraints.values())]
    if not kept:
        names = ", ".join(sorted(complete[0].constraints))
        log.warning("study %s: no trial keeps within %s; the best of all is taken", study.study_name, names)
    return max(kept or complete, key=lambda t: (t.value, -t.number))


def summary(study: optuna.Study) -> dict:
    """What the report and the lineage keep of a study: its name, best trial, and a row for every finished trial.

    A row: number (among the finished ones, the recipe's is 0; Optuna's own counts killed ones, too), state, value, params, folds
    (each one's value), over (mean amount by which each limit is exceeded), diverged, seconds (until its batch was done). All but
    `seconds` are the same in every run with the same seed.
    """
    rows, best = [], best_trial(study)
    finished = study.get_trials(states=FINISHED)
    for number, t in enumerate(finished):
        row = {"number": number, "state": t.state.name, "value": t.value, "params": t.params, "over": t.constraints}
        row |= {"folds": t.user_attrs["folds"], "diverged": t.user_attrs.get("diverged", False)}
        # Only a running trial has none.
        assert t.duration is not None
        rows.append(row | {"seconds": round(t.duration.total_seconds(), 1)})
    chosen = [t.number for t in finished].index(best.number)
    return {"study": study.study_name, "best_trial": chosen, "best_value": best.value, "trials": rows}
