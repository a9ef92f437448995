"""Studies in a real PostgreSQL: several runs of one study at once, one of them killed, and a database that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import optuna
import psycopg2
import pytest

from cmb_models.training.tuning.storage import VARIABLE, claimed_storage
from cmb_models.training.tuning.study import Outcome, open_study, summary, tune
from tests.integration.mlflow_server import postgres
from tests.support.refused import refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
TRIALS = 6
# A run of the study as a stage does it: each fold takes a while, and says which trials it works on.
RUN = f"""
import sys, time
from cmb_models.training.tuning.storage import claimed_storage
from cmb_models.training.tuning.study import Outcome, open_study, summary, tune

def evaluate(asked, fold):
    print("fold", [number for _, number in asked], flush=True)
    time.sleep(0.4)
    return [Outcome(1 - abs(settings["dropout"] - 0.2)) for settings, _ in asked]

with claimed_storage("s") as storage:
    study = open_study("s", storage)
    tune(study, {{"dropout": (0.0, 0.5)}}, {TRIALS}, {{"dropout": 0.4}}, 2, 2, 0, evaluate, storage.held)
    print("best", summary(study)["best_value"], flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres")) as database:
        yield database


@pytest.fixture
def database(server, monkeypatch):
    """The URL of an empty database, which the variable names. Of its own server, which other tests share."""
    with psycopg2.connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.close()
    url = server.replace("postgresql://", "postgresql+psycopg2://", 1)
    monkeypatch.setenv(VARIABLE, url)
    return url


def begin() -> subprocess.Popen:
    command = [sys.executable, "-u", "-c", RUN]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(study: optuna.Study) -> list[tuple]:
    return [(row["number"], row["params"], row["value"]) for row in summary(study)["trials"]]


def straight(tmp_path, monkeypatch) -> list[tuple]:
    """The finished trials of one run that nobody disturbs, in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE)

    def evaluate(asked, _fold):
        return [Outcome(1 - abs(settings["dropout"] - 0.2)) for settings, _ in asked]

    with claimed_storage("s") as storage:
        study = open_study("s", storage)
        tune(study, {"dropout": (0.0, 0.5)}, TRIALS, {"dropout": 0.4}, 2, 2, 0, evaluate)
        return rows(study)


def test_two_runs_of_one_study_and_one_killed(database, tmp_path, monkeypatch):
    """The second waits, takes over when the first is killed, and ends with the trials of an undisturbed run; a third one agrees."""
    first = begin()
    assert first.stdout.readline() == "fold [0, 1]\n"
    second = begin()
    while first.stdout.readline() != "fold [2, 3]\n":
        pass
    assert second.poll() is None
    first.kill()
    first.communicate()
    out, words = second.communicate(timeout=60)
    assert second.returncode == 0, words
    assert "another run has it" in words
    assert out.splitlines()[0] == "fold [2, 3]"  # the finished trials 0 and 1 are kept, the batch that was cut off runs again
    third, _ = begin().communicate(timeout=60)
    assert third == out.splitlines()[-1] + "\n"
    with claimed_storage("s") as storage:
        study = open_study("s", storage)
        found = rows(study)
        assert sum(t.state == optuna.trial.TrialState.FAIL for t in study.trials) == 2  # those of the killed run alone
    assert found == straight(tmp_path, monkeypatch)


def test_a_run_that_lost_its_claim_writes_nothing_more(database):
    """The database ends its connections, as at a restart: another run may have the study from then on."""
    run = begin()
    assert run.stdout.readline() == "fold [0, 1]\n"
    with psycopg2.connect(os.environ[VARIABLE].replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname IS NOT NULL"
        )
    connection.close()
    _, words = run.communicate(timeout=60)
    assert run.returncode != 0 and "finished trials are kept" in words
    with claimed_storage("s") as storage:
        assert not open_study("s", storage).get_trials(states=[optuna.trial.TrialState.COMPLETE])


def test_a_wrong_password_is_named_before_any_work(database, monkeypatch):
    monkeypatch.setenv(
        VARIABLE, "postgresql+psycopg2://nobody:secret@/nowhere" + database[database.index("?") :] if "?" in database else database
    )
    with refused("database-unreachable") as refusal, claimed_storage("s"):
        pytest.fail("claimed")
    assert "secret" not in str(refusal.value)


def test_other_studies_are_not_waited_for(database):
    started = time.monotonic()
    with claimed_storage("a") as one, claimed_storage("b") as two:
        assert open_study("a", one).study_name == "a" and open_study("b", two).study_name == "b"
    assert time.monotonic() - started < 30
