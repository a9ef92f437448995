"""A Dask scheduler with workers, processes of their own on this machine, and jobs for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Worker

from cmb_models.errors import InputError
from cmb_models.training.data.examples import load_examples
from cmb_models.training.identity import array_sha256
from cmb_models.training.precision import best_device, choose_precision
from cmb_models.training.validation.jobs import UnetJob, fit_unet
from cmb_models.training.validation.progress_count import count_step
from tests.support.imports import ROOT


@dataclass
class Cluster:
    """A running scheduler. folder: for its files. workers: by start."""

    folder: Path
    scheduler: subprocess.Popen
    address: str
    workers: list[subprocess.Popen] = field(default_factory=list)

    def start_worker(self, environment: dict[str, str] | None = None, threads: int = 1) -> subprocess.Popen:
        """One more worker, not restarted when it ends."""
        command = ("worker", self.address, "--nthreads", str(threads), "--no-nanny", "--no-dashboard", "--death-timeout", "60")
        name = f"worker-{len(self.workers)}"
        folder = ("--name", name, "--local-directory", str(self.folder))
        self.workers.append(start(self.folder / f"{name}.log", *command, *folder, environment=environment))
        return self.workers[-1]

    def wait_for(self, count: int) -> None:
        """Until `count` workers are registered."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)


def start(log: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """A Dask command in the background, in the log's folder; workers find the jobs below in the checkout."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {})
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments], cwd=log.parent, env=variables, stdout=stream, stderr=stream
        )


@contextlib.contextmanager
def running_cluster(
    folder: Path, workers: int, environment: dict[str, str] | None = None, worker_environment: dict[str, str] | None = None
) -> Iterator[Cluster]:
    """A scheduler on loopback with this many workers; all end with the context. environment: of the scheduler."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "scheduler.log"
    command = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    scheduler = start(log, *command, environment=environment)
    cluster = Cluster(folder, scheduler, "")
    try:
        cluster.address = _address(log, scheduler)
        for _ in range(workers):
            cluster.start_worker(worker_environment)
        if workers:
            cluster.wait_for(workers)
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            process.kill()
            process.wait()


def _address(log: Path, scheduler: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and scheduler.poll() is None:
        for line in log.read_text().splitlines():
            if "Scheduler at:" in line:
                return line.split("Scheduler at:")[1].strip()
        time.sleep(0.1)
    raise AssertionError(f"no scheduler: {log.read_text()}")


@dataclass(frozen=True)
class ClusterJob:
    """prepared_dir: a folder that it reads. marks: one in which it leaves a file for each time it runs."""

    prepared_dir: Path
    marks: Path
    number: int


def _mark(job: ClusterJob) -> int:
    """How often this job has begun, this time included."""
    begun = len(list(job.marks.glob(f"{job.number}-*")))
    (job.marks / f"{job.number}-{begun}-{os.getpid()}").touch()
    return begun + 1


def square(job: ClusterJob) -> tuple[int, int]:
    """(number squared, process), after two steps."""
    _mark(job)
    time.sleep(0.2)
    for step in range(2):
        count_step(step)
    return job.number**2, os.getpid()


def die_once(job: ClusterJob) -> int:
    """The number, by the second worker that tries: job 0 ends its first one."""
    if _mark(job) == 1 and job.number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number


def die(job: ClusterJob) -> int:
    """Ends every worker."""
    os.kill(os.getpid(), signal.SIGKILL)
    return job.number


def refuse(job: ClusterJob) -> int:
    """Job 1 finds its data wrong."""
    _mark(job)
    if job.number == 1:
        raise InputError("scan-constant", "site.sub-001", "an image", "one value", "look at it")
    return job.number


def disturb(job: ClusterJob) -> int:
    """Leaves a further file among the inputs of all jobs."""
    (job.prepared_dir / "another.json").write_text("{}")
    return job.number


def remove(job: ClusterJob) -> int:
    """Removes the inputs of all jobs."""
    shutil.rmtree(job.prepared_dir)
    return job.number


def precision_used(job: ClusterJob) -> str:
    """Number format of trainings in the worker."""
    return choose_precision(best_device()).precision


def miss(job: ClusterJob) -> int:
    """Opens a file that is not there."""
    return len((job.prepared_dir / "none").read_bytes())


def refuse_or_step(job: ClusterJob) -> int:
    """The first job finds its data wrong; others continue for ever, and report their steps."""
    first = not any(job.marks.iterdir())  # a worker runs one at a time
    _mark(job)
    while not first:
        count_step(0)
        time.sleep(0.01)
    raise InputError("scan-constant", "site.sub-001", "an image", "one value", "look at it")


def end_first_worker(dask_worker: Worker) -> int:
    """The process; ends that of the first worker. The argument's name is Dask's."""
    if str(dask_worker.name) == "worker-0":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def wait_long(job: ClusterJob) -> int:
    """Longer than any test."""
    _mark(job)
    time.sleep(300)
    return job.number


def unet_weights(job: UnetJob) -> str:
    """Hash of the weights of stage 1 trained on a job's subjects."""
    training = [e for e in load_examples(job.prepared_dir) if e.subject in job.training]
    weights = fit_unet(training, job.unet, job.seed, job.prepared_dir, job.checkpoints).state_dict()
    return array_sha256(*(tensor.numpy() for _, tensor in sorted(weights.items())))
