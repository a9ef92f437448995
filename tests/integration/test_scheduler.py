"""Jobs on the workers of a real Dask scheduler: who runs them, what is lost with a worker, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import dask
import pytest

from cmb_models.training.data.preparation import prepare_training
from cmb_models.training.validation import scheduler as module
from cmb_models.training.validation.pool import SCHEDULER, scheduler_workers
from cmb_models.training.validation.scheduler import DaskWorkers
from cmb_models.training.validation.workers import Workers, open_workers
from tests.support.certificates import Certificate, make_certificate, make_root
from tests.support.cluster import (
    ClusterJob,
    die,
    die_once,
    disturb,
    end_first_worker,
    miss,
    precision_used,
    refuse,
    refuse_or_step,
    remove,
    running_cluster,
    square,
    wait_long,
)
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.unit.dataset.test_leakage_prepared import PARAMS, site  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def jobs(tmp_path):
    """jobs(count): jobs that read one folder and leave their marks in another."""
    prepared, marks = tmp_path / "prepared", tmp_path / "marks"
    prepared.mkdir()
    marks.mkdir()
    (prepared / "site.sub-001.json").write_text("{}")
    return lambda count: [ClusterJob(prepared, marks, n) for n in range(count)]


def runs(jobs) -> dict[int, int]:
    """How often each job was begun."""
    return dict(Counter(int(p.name.split("-")[0]) for p in jobs[0].marks.iterdir()))


def test_without_a_scheduler_jobs_run_on_this_machine(monkeypatch):
    monkeypatch.delenv(SCHEDULER, raising=False)
    with open_workers(1, unet=False) as workers:
        assert isinstance(workers, Workers)


def test_jobs_run_on_all_workers_and_come_back_in_order(tmp_path, jobs, monkeypatch):
    done = []
    with running_cluster(tmp_path / "cluster", 2) as cluster:
        monkeypatch.setenv(SCHEDULER, cluster.address)
        with open_workers(2) as workers:
            assert isinstance(workers, DaskWorkers)
            follow = workers._progress
            monkeypatch.setattr(workers, "_progress", lambda show: follow(lambda n: (done.append(n), show(n))))
            results = workers.map(square, jobs(6), 12, "squares")
    assert [value for value, _ in results] == [0, 1, 4, 9, 16, 25]
    assert {process for _, process in results} == {w.pid for w in cluster.workers}
    assert done[-1] <= 12 and done == sorted(done) and done


def test_scans_and_lesions_prepared_by_workers_are_those_of_this_process(site, tmp_path, monkeypatch):  # noqa: F811
    """Byte for byte, from a relative path of the raw data."""
    folder, index, split = site
    monkeypatch.chdir(folder)
    lesions = PARAMS.lesion_bank.model_copy(update={"lesions": 27})
    statistics = prepare_training(Path("raw"), index, split, PARAMS.preprocess, lesions, Path("here"))
    with running_cluster(tmp_path / "cluster", 2) as cluster:
        monkeypatch.setenv(SCHEDULER, cluster.address)
        with scheduler_workers() as pool:
            from_workers = prepare_training(Path("raw"), index, split, PARAMS.preprocess, lesions, Path("there"), pool=pool)
    here, there = ({p.name: p.read_bytes() for p in Path(place).iterdir()} for place in ("here", "there"))
    assert here == there and any(name.startswith("lesions") for name in here)
    assert statistics == from_workers and len(statistics) == 2


def test_a_killed_workers_job_is_taken_up_by_another(tmp_path, jobs):
    own = jobs(3)
    with running_cluster(tmp_path / "cluster", 2) as cluster, DaskWorkers(cluster.address) as workers:
        assert workers.map(die_once, own, 0, "one worker dies") == [0, 1, 2]
        assert runs(own)[0] == 2
        assert sorted(w.poll() is None for w in cluster.workers) == [False, True]


def test_a_job_that_fails_on_its_data_is_not_repeated(tmp_path, jobs):
    own = jobs(2)
    with running_cluster(tmp_path / "cluster", 2) as cluster, DaskWorkers(cluster.address) as workers:
        with refused("scan-constant", case="sub-001"):
            workers.map(refuse, own, 0, "one refuses")
        assert runs(own)[1] == 1
        with pytest.raises(FileNotFoundError, match="none"):
            workers.map(miss, jobs(1), 0, "one finds no file")
        assert workers.map(square, jobs(1), 0, "afterwards")[0][0] == 0


def test_cancelled_jobs_do_not_keep_a_worker_busy(tmp_path, jobs):
    """Of a worker with several threads: one job runs, the others wait for it, and none continues after the first fails."""
    with running_cluster(tmp_path / "cluster", 0) as cluster:
        cluster.start_worker(threads=3)
        cluster.wait_for(1)
        with DaskWorkers(cluster.address) as workers:
            with refused("scan-constant", case="sub-001"):
                workers.map(refuse_or_step, jobs(3), 0, "one refuses")
            assert workers.map(square, jobs(3), 0, "afterwards")[2][0] == 4


def test_a_worker_that_ends_while_it_is_asked_is_left_out(tmp_path):
    with running_cluster(tmp_path / "cluster", 2) as cluster, module.connect(cluster.address) as client:
        assert list(module._ask(client, end_first_worker).values()) == [cluster.workers[1].pid]


def test_a_run_without_workers_says_so_and_goes_on_with_one_that_joins(tmp_path, jobs, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOOK_S", 0.3)
    with running_cluster(tmp_path / "cluster", 1) as cluster, DaskWorkers(cluster.address) as workers:

        def join() -> None:
            while "no worker is left" not in caplog.text:
                time.sleep(0.1)
            cluster.start_worker()

        joining = threading.Thread(target=join, daemon=True)
        joining.start()
        assert workers.map(die_once, jobs(2), 0, "the only worker dies") == [0, 1]
        joining.join()


def test_the_clients_precision_is_that_of_the_workers(tmp_path, jobs, monkeypatch):
    monkeypatch.setenv("CMB_PRECISION", "bfloat16")
    with (
        running_cluster(tmp_path / "cluster", 1, worker_environment={"CMB_PRECISION": "float32"}) as cluster,
        DaskWorkers(cluster.address) as workers,
    ):
        assert workers.map(precision_used, jobs(1), 0, "precision") == ["bfloat16"]
        monkeypatch.delenv("CMB_PRECISION")
        with DaskWorkers(cluster.address) as later:  # the worker's own, not what it used for the client before
            assert later.map(precision_used, jobs(1), 0, "precision") == ["float32"]


def test_a_worker_that_sees_other_files_is_named(tmp_path, jobs):
    """The first job changes what all of them read, so the second finds other inputs than the client."""
    with running_cluster(tmp_path / "cluster", 1) as cluster, DaskWorkers(cluster.address) as workers:
        with refused("worker-inputs", case="worker tcp://"):
            workers.map(disturb, jobs(2), 0, "inputs change")
        with refused("worker-inputs", case="worker tcp://"):
            workers.map(remove, jobs(2), 0, "inputs go")


def test_a_job_that_ends_every_worker_is_given_up(tmp_path, jobs):
    environment = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with (
        running_cluster(tmp_path / "cluster", 2, environment) as cluster,
        DaskWorkers(cluster.address) as workers,
        refused("worker-lost", got="ended 2 workers"),
    ):
        workers.map(die, jobs(1), 0, "workers die")


def test_a_scheduler_that_ends_is_named_and_work_is_not_awaited_for_ever(tmp_path, jobs):
    own = jobs(1)
    with running_cluster(tmp_path / "cluster", 1) as cluster, DaskWorkers(cluster.address) as workers:

        def kill() -> None:
            while not runs(own):
                time.sleep(0.1)
            cluster.scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with refused("scheduler-lost", case=cluster.address):
            workers.map(wait_long, own, 0, "the scheduler dies")
        killer.join()


def test_traffic_can_be_encrypted_and_a_client_of_another_authority_is_refused(tmp_path, jobs, monkeypatch):
    root, other = (make_root(tmp_path / name) for name in ("root", "other"))

    def settings(root: Certificate, name: str) -> dict[str, object]:
        """Dask's, for scheduler, worker and client with a certificate that `root` signs."""
        pair, tls = make_certificate(tmp_path / name, root), "distributed.comm.tls"
        files = {f"{tls}.{role}.{part}": str(f) for role in ("scheduler", "worker", "client") for part, f in vars(pair).items()}
        comm = {"distributed.comm.default-scheme": "tls", "distributed.comm.require-encryption": True}
        return files | comm | {f"{tls}.ca-file": str(root.cert)}

    ours = settings(root, "ours")
    variables = {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value) for key, value in ours.items()}
    with running_cluster(tmp_path / "cluster", 0, variables) as cluster:
        assert cluster.address.startswith("tls://")
        cluster.start_worker(variables)
        with dask.config.set(ours), DaskWorkers(cluster.address) as workers:
            assert [value for value, _ in workers.map(square, jobs(2), 0, "encrypted")] == [0, 1]
        monkeypatch.setattr(module, "CONNECT_S", 3.0)
        with dask.config.set(settings(other, "theirs")), refused("scheduler-unreachable", case="tls://"):
            DaskWorkers(cluster.address)


def test_a_worker_of_another_version_is_refused_before_any_work(tmp_path, jobs):
    """And one that joins later by its first job."""
    shutil.copytree(
        ROOT / "cmb_models", tmp_path / "other/cmb_models", ignore=shutil.ignore_patterns("__pycache__", "base_release")
    )
    shutil.copytree(
        ROOT / "cmb_models/base_release", tmp_path / "other/cmb_models/base_release", ignore=shutil.ignore_patterns("bundle")
    )
    init = tmp_path / "other/cmb_models/__init__.py"
    text = init.read_text()
    init.write_text(text.replace('__version__ = "', '__version__ = "9.'))
    other = {"PYTHONPATH": f"{tmp_path / 'other'}:{ROOT}"}
    with running_cluster(tmp_path / "cluster", 0) as cluster:
        with DaskWorkers(cluster.address) as workers:
            cluster.start_worker(other)
            cluster.wait_for(1)
            with refused("worker-version", case="tcp://", got="cmb-models 9."):
                workers.map(square, jobs(1), 0, "a late worker")
        with refused("worker-version", got="cmb-models 9."):
            DaskWorkers(cluster.address)


def test_the_slurm_example_writes_a_job_that_starts_a_worker(tmp_path, jobs):
    """The job script by --print-job, run as SLURM would, with another scheduler's address."""
    command = [sys.executable, str(ROOT / "deploy/cluster/slurm.py"), "--print-job", "--port", "0", "--gpus", "1", "--queue", "q"]
    script = subprocess.run(command, cwd=tmp_path, check=True, text=True, capture_output=True).stdout
    assert {"#SBATCH -p q", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=4"} <= set(script.splitlines())
    with running_cluster(tmp_path / "cluster", 0) as cluster:
        (tmp_path / "job.sh").write_text(re.sub(r"tcp://[\d.]+:\d+", cluster.address, script))
        job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
        try:
            cluster.wait_for(1)
            with DaskWorkers(cluster.address) as workers:
                assert [value for value, _ in workers.map(square, jobs(2), 0, "by the job")] == [0, 1]
        finally:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    with refused("scheduler-unreachable", case="tcp://127.0.0.1:9"):
        DaskWorkers("tcp://127.0.0.1:9")
    with refused("scheduler-unreachable", case="nonsense"):
        DaskWorkers("nonsense://")
