"""Tuning: resumes after a kill, prunes between folds, never ends below the recipe it started from."""

from __future__ import annotations

import optuna
import pytest

from cmb_models.training.tuning import open_study, study_name, summary, tune

SEARCH = {"learning_rate": (0.001, 0.1), "dropout": (0.0, 0.5)}
FIRST = {"learning_rate": 0.01, "dropout": 0.2}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def quality(settings):
    """Best at dropout .2."""
    return 1 - abs(settings["dropout"] - 0.2)


def run(storage, trials=4, evaluate=None):
    study = open_study("s", seed=0, storage=storage)
    asked_log = []

    def count(asked, fold):
        asked_log.append((fold, [n for _, n in asked]))
        return (evaluate or (lambda a, _f: [quality(c) for c, _ in a]))(asked, fold)

    best = tune(study, SEARCH, trials, FIRST, folds=3, side_by_side=2, evaluate=count)
    return study, best, asked_log


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'o.db'}"


def test_the_first_trial_is_the_recipe_and_the_best_is_no_worse(storage):
    study, best, asked = run(storage)
    assert study.trials[0].params == FIRST
    assert best.value == max(t.value for t in study.trials if t.value is not None) >= quality(FIRST)
    assert asked[:3] == [(0, [0, 1]), (1, [0, 1]), (2, [0, 1])]


def test_finished_trials_are_not_done_again(storage):
    run(storage, trials=2)
    study, _, asked = run(storage, trials=3)
    assert [n for _, numbers in asked for n in numbers] == [2, 2, 2]
    assert len(study.trials) == 3


def test_a_killed_run_keeps_its_trials(storage):
    def die_in_the_second_batch(asked, fold):
        if asked[0][1] >= 2 and fold == 1:
            raise Killed
        return [quality(c) for c, _ in asked]

    with pytest.raises(Killed):
        run(storage, evaluate=die_in_the_second_batch)
    study, _, asked = run(storage)
    states = [t.state for t in study.trials]
    assert states.count(optuna.trial.TrialState.COMPLETE) == 4
    assert states[2:4] == [optuna.trial.TrialState.FAIL] * 2  # the two that were cut off; 0 and 1 were not repeated
    assert min(n for _, numbers in asked for n in numbers) == 4


def test_a_trial_far_below_the_others_is_pruned_after_its_first_fold(storage):
    def bad_later(asked, fold):
        return [0.9 if n < 4 else 0.1 for _, n in asked]

    study, best, _ = run(storage, trials=6, evaluate=bad_later)
    assert [t.state for t in study.trials[4:]] == [optuna.trial.TrialState.PRUNED] * 2
    assert [len(t.intermediate_values) for t in study.trials[4:]] == [1, 1]
    assert best.value == pytest.approx(0.9)
    assert len(summary(study)["trials"]) == 6


def test_the_name_changes_with_all_that_values_depend_on():
    assert study_name("unet", {"a": 1}) == study_name("unet", {"a": 1}) != study_name("unet", {"a": 2})


def test_the_recipe_is_tried_even_if_a_kill_cut_its_trial_off(storage):
    def die_at_once(asked, fold):
        raise Killed

    with pytest.raises(Killed):
        run(storage, evaluate=die_at_once)
    study, best, _ = run(storage)
    assert FIRST in [t.params for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert best.value >= quality(FIRST)
