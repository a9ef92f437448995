"""Tuning: resumes after a kill, prunes between folds, keeps limits, outlives divergence, never ends below its first recipe."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading

import optuna
import pytest
import sqlalchemy

from cmb_models.config.params import load_params
from cmb_models.training.tuning import objective
from cmb_models.training.tuning import storage as storage_module
from cmb_models.training.tuning.importance import importances
from cmb_models.training.tuning.storage import claimed_storage, network_file_system, sqlite_storage, storage_fault_as_input_error
from cmb_models.training.tuning.study import Outcome, open_study, study_name, summary, tune
from tests.support.imports import ROOT
from tests.support.refused import refused

SEARCH = {"learning_rate": (0.001, 0.1), "dropout": (0.0, 0.5)}
ROOT_PARAMS = load_params(ROOT / "params.yaml")
FIRST = {"learning_rate": 0.01, "dropout": 0.2}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def quality(settings):
    """Best at dropout .2."""
    return 1 - abs(settings["dropout"] - 0.2)


def run(storage, trials=4, evaluate=None):
    study = open_study("s", storage)
    asked_log = []

    def count(asked, fold):
        asked_log.append((fold, [n for _, n in asked]))
        values = (evaluate or (lambda a, _f: [quality(c) for c, _ in a]))(asked, fold)
        return [Outcome(v) if isinstance(v, float) else v for v in values]

    best = tune(study, SEARCH, trials, FIRST, folds=3, parallel_trials=2, seed=0, evaluate=count)
    return study, best, asked_log


@pytest.fixture
def storage(tmp_path):
    return sqlite_storage(tmp_path / "o.db")


def test_the_first_trial_is_the_recipe_and_the_best_is_no_worse(storage):
    study, best, asked = run(storage)
    assert study.trials[0].params == FIRST
    assert best.value == max(t.value for t in study.trials if t.value is not None) >= quality(FIRST)
    assert asked[:3] == [(0, [0, 1]), (1, [0, 1]), (2, [0, 1])]


def test_levels_are_searched_as_whole_numbers_and_reach_the_recipe(storage):
    """From Optuna's proposals through JSON, as models/tuned/*.json holds them, to the settings of a training."""
    study = open_study("s", storage)
    search, first = {"frozen_levels": (0, 2), "learning_rate": (0.001, 0.1)}, {"frozen_levels": 0, "learning_rate": 0.01}
    best = tune(study, search, 8, first, 1, 2, 0, lambda asked, _: [Outcome(0.1 * c["frozen_levels"]) for c, _ in asked])
    tried = [row["params"]["frozen_levels"] for row in summary(study)["trials"]]
    assert tried[0] == 0 and set(tried) == {0, 1, 2} and all(type(value) is int for value in tried)
    tuned = json.loads(json.dumps({"settings": best.params}))
    recipe = objective.apply_tuned(ROOT_PARAMS.unet, tuned)
    assert recipe.frozen_levels == 2 and recipe.learning_rate == best.params["learning_rate"]
    assert importances(summary(study)["trials"])["frozen_levels"] > 0.9


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
    assert {n for _, numbers in asked for n in numbers} == {2, 3}  # counted among the finished ones, as if nothing had happened


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


def table(study):
    """A study's finished trials but for what differs from run to run, the time taken."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in summary(study)["trials"]]


def by_number(asked, fold):
    """As trainings are: the value depends on the settings and on the seed, which is made from the number."""
    return [quality(c) - 0.01 * n + 0.001 * fold for c, n in asked]


def test_the_same_seed_gives_the_same_trials(tmp_path):
    first, again = (run(sqlite_storage(tmp_path / f"{name}.db"), trials=8, evaluate=by_number)[0] for name in "ab")
    assert table(first) == table(again)
    assert len({t["params"]["dropout"] for t in table(first)}) == 8


@pytest.mark.parametrize(("number", "fold"), [(0, 0), (2, 1), (6, 0)])
def test_a_killed_run_ends_as_if_it_had_not_been_killed(tmp_path, number, fold):
    """Also where TPE proposes, which draws from all that was found before."""
    storage = sqlite_storage(tmp_path / "killed.db")

    def die(asked, at):
        if asked[0][1] == number and at == fold:
            raise Killed
        return by_number(asked, at)

    with pytest.raises(Killed):
        run(storage, trials=8, evaluate=die)
    killed, best, _ = run(storage, trials=8, evaluate=by_number)
    straight, wanted, _ = run(sqlite_storage(tmp_path / "straight.db"), trials=8, evaluate=by_number)
    assert table(killed) == table(straight)
    assert (best.params, best.value) == (wanted.params, wanted.value)


@pytest.mark.parametrize("lost", [3, 2])
def test_a_batch_of_which_one_trial_had_ended_is_run_again_whole(tmp_path, lost):
    """Else the next proposals would be from another number of finished trials, and with another seed."""

    def early_end(asked, fold):
        return [None if (n, fold) == (5 - lost, 0) else v for (_, n), v in zip(asked, by_number(asked, fold), strict=True)]

    def die(asked, fold):
        if (asked[0][1], fold) == (lost, 1):
            raise Killed
        return early_end(asked, fold)

    storage = sqlite_storage(tmp_path / "killed.db")
    with pytest.raises(Killed):
        run(storage, trials=8, evaluate=die)
    killed, _, asked = run(storage, trials=8, evaluate=early_end)
    assert asked[0] == (0, [2, 3])
    assert table(killed) == table(run(sqlite_storage(tmp_path / "straight.db"), trials=8, evaluate=early_end)[0])


def test_a_kill_while_a_batch_is_written_as_finished_loses_nothing(tmp_path, monkeypatch):
    storage, tell, finished_trials = sqlite_storage(tmp_path / "killed.db"), optuna.Study.tell, []

    def die(self, *arguments, **named):
        if len(finished_trials) == 5:
            raise Killed
        finished_trials.append(arguments)
        return tell(self, *arguments, **named)

    monkeypatch.setattr(optuna.Study, "tell", die)
    with pytest.raises(Killed):
        run(storage, trials=8, evaluate=by_number)
    monkeypatch.undo()
    killed, _, asked = run(storage, trials=8, evaluate=by_number)
    assert asked[0] == (0, [6, 7])
    assert table(killed) == table(run(sqlite_storage(tmp_path / "straight.db"), trials=8, evaluate=by_number)[0])


def test_a_diverging_trial_is_left_and_the_search_goes_on(storage):
    def diverge(asked, fold):
        return [None if n == 1 and fold == 1 else quality(c) for c, n in asked]

    study, best, asked = run(storage, evaluate=diverge)
    rows = summary(study)["trials"]
    assert [r["state"] for r in rows] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [r["diverged"] for r in rows] == [False, True, False, False]
    assert [len(r["folds"]) for r in rows] == [3, 1, 3, 3]
    assert asked[2] == (2, [0])  # its third fold is not trained
    assert best.number != 1


def test_a_search_in_which_everything_diverges_is_an_error_in_words(storage):
    with refused("study-without-trial"):
        run(storage, evaluate=lambda asked, fold: [None] * len(asked))


def limited(over):
    """The value rises with the dropout; over(dropout) by how much the limit is exceeded."""
    return lambda asked, fold: [Outcome(c["dropout"], {"candidates_per_scan": over(c["dropout"])}) for c, _ in asked]


def test_the_best_trial_is_the_best_that_keeps_the_limit(storage):
    study, best, _ = run(storage, trials=10, evaluate=limited(lambda d: 100 * (d - 0.3)))
    complete = [t for t in summary(study)["trials"] if t["state"] == "COMPLETE"]
    kept = [t for t in complete if t["over"]["candidates_per_scan"] <= 0]
    assert 0 < len(kept) < len(complete)
    assert best.params["dropout"] == max(t["params"]["dropout"] for t in kept) <= 0.3
    assert summary(study)["best_value"] == best.value < max(t["value"] for t in complete)


def test_where_nothing_keeps_the_limit_the_best_of_all_is_taken_and_said(storage, caplog):
    study, best, _ = run(storage, evaluate=limited(lambda d: 5.0))
    assert best.value == max(t["value"] for t in summary(study)["trials"])
    assert "no trial keeps within candidates_per_scan" in caplog.text


def test_the_table_holds_what_history_and_importances_are_drawn_from(storage):
    study, _, _ = run(storage, evaluate=lambda asked, fold: [0.1 * fold + 0.5] * len(asked))
    for row in summary(study)["trials"]:
        assert row["folds"] == pytest.approx([0.5, 0.6, 0.7]) and row["value"] == pytest.approx(0.6)
        assert set(row["params"]) == set(SEARCH) and row["seconds"] >= 0 and row["over"] == {}


TUNE_AND_WAIT = """
import sys
from cmb_models.training.tuning.storage import claimed_storage
from cmb_models.training.tuning.study import Outcome, open_study, tune

def wait(asked, fold):
    print("running", flush=True)
    sys.stdin.readline()
    return [Outcome(0.5)] * len(asked)

with claimed_storage("s") as storage:
    tune(open_study("s", storage), {"dropout": (0.0, 0.5)}, 1, {"dropout": 0.2}, 1, 1, 0, wait)
"""


@pytest.fixture
def tuning(tmp_path, monkeypatch):
    """Another process in this workspace, in the middle of its first trial."""
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", TUNE_AND_WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_on_the_study_is_refused_and_the_first_goes_on(tuning):
    with refused("folder-in-use", case=r"optuna\.lock"), claimed_storage("s"):
        pytest.fail("two processes have the studies")
    tuning.communicate("go on\n")
    assert tuning.returncode == 0
    with claimed_storage("s") as storage:
        (trial,) = open_study("s", storage).trials
    assert trial.value == 0.5


def test_the_claim_of_a_killed_process_ends_with_it(tuning):
    tuning.kill()
    tuning.wait()
    with claimed_storage("s") as storage:
        (trial,) = open_study("s", storage).trials
    assert trial.state == optuna.trial.TrialState.FAIL


def test_a_search_claims_the_studies_of_its_workspace(tuning):
    with refused("folder-in-use"):
        objective._search("unet", ROOT_PARAMS.tune_unet, ROOT_PARAMS.unet, (), [], lambda *_: [])


class Reader:
    """A dashboard that opens the database during the first fold and keeps it locked for this long."""

    def __init__(self, file, seconds):
        self.file, self.seconds, self.connection = file, seconds, None

    def evaluate(self, asked, fold):
        if self.connection is None:
            self.connection = sqlite3.connect(self.file, check_same_thread=False, isolation_level=None)
            self.connection.execute("BEGIN")
            self.connection.execute("SELECT * FROM trials").fetchall()
            self.timer = threading.Timer(self.seconds, self.connection.rollback)
            self.timer.start()
        return [quality(c) for c, _ in asked]

    def close(self):
        self.timer.cancel()
        self.connection.close()


def test_a_database_that_is_busy_for_a_while_is_waited_for(storage, tmp_path):
    """Longer than SQLite's own five seconds."""
    with contextlib.closing(Reader(tmp_path / "o.db", 7)) as reader:
        study, _, _ = run(storage, trials=1, evaluate=reader.evaluate)
    assert len(summary(study)["trials"]) == 1


def test_a_database_that_stays_busy_is_an_error_in_one_sentence(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "BUSY_S", 0.2)
    with (
        contextlib.closing(Reader(tmp_path / "o.db", 600)) as reader,
        refused("folder-in-use", got="locked"),
        storage_fault_as_input_error("optuna.db"),
    ):
        run(sqlite_storage(tmp_path / "o.db"), trials=1, evaluate=reader.evaluate)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/a/site", "nfs4"), ("/home/a", "nfs4"), ("/home/ab", None), ("/data/x", None), ("/mnt/two words/site", "cifs")],
)
def test_network_file_systems(tmp_path, folder, kind):
    """By the longest mount point above a folder; of two at one place the later one."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /home/a rw,relatime shared:9 - nfs4 server:/a rw\n"
        "31 22 0:41 / /data rw - nfs server:/data rw\n"
        "32 22 8:2 / /data rw - xfs /dev/sdb rw\n"
        "33 22 0:42 / /mnt/two\\040words rw - cifs //server/share rw\n"
    )
    assert network_file_system(folder, mounts) == kind
    assert network_file_system(folder, tmp_path / "missing") is None


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://a@b/c",
        "sqlite:///o.db",
        "postgresql://a@b:port/c",
        "postgresql+nodriver://a:secret@b/c",
        "mysql://a@b/c?password=secret",
    ],
)
def test_a_storage_that_is_no_postgresql_is_refused(monkeypatch, url):
    monkeypatch.setenv(storage_module.VARIABLE, url)
    with refused("setting-invalid", case="CMB_OPTUNA_STORAGE") as refusal, claimed_storage("s"):
        pytest.fail("claimed")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(("credentials", "query"), [("tuner:secret", ""), ("tuner", "?password=secret")])
def test_a_database_that_does_not_answer_is_named_without_its_password(monkeypatch, credentials, query):
    monkeypatch.setenv(storage_module.VARIABLE, f"postgresql+psycopg2://{credentials}@127.0.0.1:9/studies{query}")
    with refused("database-unreachable", case="@127.0.0.1:9/studies", got="refused") as refusal, claimed_storage("s"):
        pytest.fail("claimed")
    assert "secret" not in str(refusal.value)


def test_an_option_that_the_driver_does_not_know_is_named(monkeypatch):
    monkeypatch.setenv(storage_module.VARIABLE, "postgresql+psycopg2://tuner@127.0.0.1:9/studies?nonsense=1")
    with refused("database-unreachable", got="nonsense"), claimed_storage("s"):
        pytest.fail("claimed")


def test_a_full_disk_is_told_and_what_is_finished_is_kept(storage):
    """SQLite's own answer when its file may not grow."""
    run(storage, trials=2)

    def limit(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def long(asked, fold):
        return [Outcome(0.5, {"x" * 4000 + str(n): 0.0 for n in range(4)})] * len(asked)

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", limit)
    try:
        with refused("disk-full"), storage_fault_as_input_error("optuna.db"):
            run(storage, trials=4, evaluate=long)
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", limit)
    _, _, asked = run(storage, trials=4)
    assert {n for _, numbers in asked for n in numbers} == {2, 3}
    for passes in (ValueError("another fault"), ConnectionResetError("connection reset by a worker")):
        with pytest.raises(type(passes), match=str(passes)), storage_fault_as_input_error("optuna.db"):
            raise passes
