"""Trainings on the workers of a Dask scheduler, on this machine or others, by the interface of workers.Workers.

A job that loses its worker runs again on another one: from its checkpoint if the workspace lies on storage that both share, else
from its start. A job that fails with an exception is not repeated. Encryption and certificates are Dask's own settings
(`distributed.comm.tls`), which client, scheduler and workers read from the same configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import os
import platform
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cmb_models import __version__
from cmb_models.errors import InputError
from cmb_models.training.precision import FLOAT32, Choice, adopt_precision, best_device, own_precision
from cmb_models.training.precision import VARIABLE as PRECISION_VARIABLE
from cmb_models.training.progress import progress_bar
from cmb_models.training.validation import progress_count
from cmb_models.workspace.code_lock import library_hash

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

CONNECT_S = 10.0  # until a scheduler that does not answer is given up
LOOK_S = 10.0  # between two looks at whether any worker is left
REPORT_S = 0.5  # between two reports of finished steps by a worker
# Modules whose functions are sent, and packages other than torch that they compute with.
JOBS = tuple(f"cmb_models.training.{name}" for name in ("validation.jobs", "final", "data.preparation"))
PACKAGES = ("numpy", "scipy")
INPUTS = ("prepared_dir", "candidates_dir")  # fields of a job with folders that it reads
_one_at_a_time = threading.Lock()  # torch's threads and precision are settings of a worker's whole process
_hashes: dict[tuple[str, int, int], str] = {}  # in a worker: of files, by name, size and time of change


@dataclass(frozen=True)
class Setup:
    """What every worker has to share with the client, and how it trains. versions: as `versions`. topic: of progress reports."""

    versions: Mapping[str, str]
    precision: Choice
    topic: str


class DaskWorkers:
    """The workers of the scheduler at `address`.

    Each worker process runs one job at a time, with as many torch threads as the worker has: weights depend on that number, not on
    how many workers there are.

    Raises:
        InputError: If distributed is not installed, the scheduler does not answer or ends, or a worker has other versions of this
            library, torch or Python. A worker that joins later is checked by its first job.
    """

    def __init__(self, address: str) -> None:
        self._client = connect(address)
        self._address = address
        topic = f"cmb-models-{uuid.uuid4().hex}"
        try:
            self._setup = Setup(versions(), _shared_precision(self._client), topic)
            for worker, found in _ask(self._client, versions).items():
                require_versions(worker, self._setup.versions, found)
        except BaseException as error:
            self._client.close()
            if isinstance(error, OSError | TimeoutError):
                raise self._lost(error) from error
            raise

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job], steps: int, description: str) -> list[Result]:
        """Results of `function(job)` in the order of `jobs`. `steps`: how often all jobs together call `count_step`.

        Raises:
            InputError: If the scheduler or a job's workers are lost, or a worker does not see the same files.
            Exception: What a job raised.
        """
        absolute = [_with_absolute_paths(job) for job in jobs]
        inputs = {folder: folder_sha256(folder) for job in absolute for folder in _inputs(job)}
        tasks = [_Task(function, job, {f: inputs[f] for f in _inputs(job)}, self._setup) for job in absolute]
        with progress_bar() as bar, self._progress(lambda done: bar.update(task_id, completed=min(done, steps))):
            task_id = bar.add_task(description, total=steps)
            futures = self._client.map(run_task, tasks, pure=False, retries=0)
            try:
                return self._results(futures)
            finally:
                self._client.cancel(futures)

    def _results(self, futures: list[Future]) -> list[Any]:
        """Results in order; the first failure, whichever job has it, ends the wait.

        Each is fetched when it is ready: one that stayed with its worker would be lost with it.
        """
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        for future in futures:
            future.add_done_callback(ended.put)
        results: dict[Future, Any] = {}
        warned = False
        while len(results) < len(futures):
            try:
                future = ended.get(timeout=LOOK_S)
            except queue.Empty:
                without = not self._has_workers()
                if without and not warned:
                    log.warning("%s: no worker is left; waiting for one to join", self._address)
                warned = without
                continue
            results[future] = self._result(future)
        return [results[future] for future in futures]

    def _result(self, future: Future) -> Any:
        """The result of a job that ended. Raises its own exception, or InputError for a lost scheduler or lost workers."""
        from distributed import KilledWorker

        if future.status == "error":
            failed = future.exception()
            if not isinstance(failed, KilledWorker):
                raise failed
            got = f"one that ended {failed.allowed_failures + 1} workers, the last {failed.last_worker.address}"
            raise InputError(
                "worker-lost", self._address, "a job that its worker survives", got, "see the workers' logs"
            ) from failed
        try:
            return future.result()
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._lost(error) from error

    def _has_workers(self) -> bool:
        try:
            return bool(self._client.nthreads())
        except (OSError, TimeoutError) as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> InputError:
        remedy = "start scheduler and workers again and run the command again: finished trials and checkpoints are kept"
        got = " ".join(f"{error}".split()) or type(error).__name__
        return InputError("scheduler-lost", self._address, "a scheduler until the end", got, remedy)

    @contextmanager
    def _progress(self, show: Callable[[int], None]) -> Iterator[None]:
        """Call `show` with the number of steps that workers reported so far."""
        done = 0

        def add(event: tuple[float, int]) -> None:
            nonlocal done
            done += event[1]
            show(done)

        self._client.subscribe_topic(self._setup.topic, add)
        try:
            yield
        finally:
            self._client.unsubscribe_topic(self._setup.topic)


@dataclass(frozen=True)
class _Task:
    """A job with its function. inputs: SHA-256 of each folder that it reads, as the client sees it."""

    function: Callable[[Any], Any]
    job: Any
    inputs: Mapping[Path, str]
    setup: Setup


def connect(address: str) -> Client:
    """A client of the scheduler at `address` (tcp:// or tls://). Raises InputError unless it answers within CONNECT_S."""
    try:
        from distributed import Client
    except ImportError as error:
        remedy = "run pip install 'cmb-models[cluster]'"
        raise InputError("package-missing", "CMB_SCHEDULER", "Dask's distributed", f"no {error.name}", remedy) from error
    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            "scheduler-unreachable",
            f"CMB_SCHEDULER {address}",
            "the address of a running Dask scheduler, such as tcp://host:8786",
            " ".join(str(error).split()) or type(error).__name__,
            "start `dask scheduler` there, or unset CMB_SCHEDULER to train on this machine",
        ) from error


def versions() -> dict[str, str]:
    """What jobs depend on besides data and settings: this library's code, the packages that compute, and Python."""
    code = hashlib.sha256("".join(map(library_hash, JOBS)).encode()).hexdigest()
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"cmb-models": f"{__version__} ({code[:12]})", "torch": torch.__version__, **packages, "Python": python}


def require_versions(worker: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Raise InputError naming the packages of which a worker has another version than the client."""
    if differing := [name for name in ours if theirs.get(name) != ours[name]]:
        expected, got = (", ".join(f"{name} {found.get(name)}" for name in differing) for found in (ours, theirs))
        raise InputError("worker-version", f"worker {worker}", expected, got, "install the same versions on client and workers")


def folder_sha256(folder: Path) -> str:
    """Hash of the names and contents of all files below a folder. Raises InputError for a folder that is not there."""
    if not folder.is_dir():
        raise InputError("file-not-found", folder, "a folder that client and workers share", "no such folder", "mount it there")
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\0{_file_sha256(path)}\0".encode())
    return whole.hexdigest()


def run_task(task: _Task) -> Any:
    """In a worker: a job, once versions and inputs are known to be the client's."""
    from distributed import get_worker

    worker = get_worker()
    require_versions(worker.address, task.setup.versions, versions())
    for folder, sha256 in task.inputs.items():
        if not folder.is_dir() or folder_sha256(folder) != sha256:
            remedy = "mount the workspace's storage at the same path on client and workers"
            raise InputError("worker-inputs", f"worker {worker.address}", f"{folder} as the client has it", "other files", remedy)
    with _one_at_a_time, _reports(worker, task.setup.topic):
        _require_not_cancelled(worker, worker.get_current_task())  # it may have been cancelled while another ran
        torch.set_num_threads(worker.state.nthreads)
        adopt_precision(best_device(), task.setup.precision)
        return task.function(task.job)


class _Cancelled(Exception):
    """Ends a job that nobody waits for any more; the scheduler has forgotten it."""


def _require_not_cancelled(worker: Any, key: object) -> None:
    """Raise _Cancelled if the client cancelled this worker's running task, or is gone: Dask itself cannot end a thread."""
    task = worker.state.tasks.get(key)
    if task is None or task.state == "cancelled":
        raise _Cancelled(key)


def _shared_precision(client: Client) -> Choice:
    """The precision of all trainings: $CMB_PRECISION of the client if set; else that of the workers if they agree, else float32.

    The client's own choice if there are no workers yet.
    """
    if os.environ.get(PRECISION_VARIABLE, "auto") not in ("", "auto"):
        return own_precision(best_device())
    choices = list(_ask(client, _precision).values()) or [own_precision(best_device())]
    if len({c.precision for c in choices}) == 1:
        return choices[0]
    return Choice(FLOAT32, "the workers differ in the faster format")


def _precision() -> Choice:
    """Of a worker, whatever an earlier client had it adopt."""
    return own_precision(best_device())


def _ask(client: Client, question: Callable[[], Result]) -> dict[str, Result]:
    """The answer of each worker that is there; one that ends meanwhile is left out.

    Raises InputError if one does not have this library.
    """
    answers: dict[str, Any] = client.run(question, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, ImportError | AttributeError):
            remedy = "install the same version of cmb-models on client and workers"
            raise InputError("worker-version", f"worker {worker}", f"cmb-models {__version__}", str(answer), remedy) from answer
        if isinstance(answer, Exception) and not isinstance(answer, OSError | TimeoutError):
            raise answer
    return {worker: answer for worker, answer in answers.items() if not isinstance(answer, Exception)}


def _with_absolute_paths(job: Job) -> Job:
    """The job with absolute paths, as a worker runs in a folder of its own. Links stay: they may lead elsewhere on a worker."""
    if not dataclasses.is_dataclass(job) or isinstance(job, type):
        return job
    paths = {f.name: value.absolute() for f in dataclasses.fields(job) if isinstance(value := getattr(job, f.name), Path)}
    return dataclasses.replace(job, **paths)


def _inputs(job: object) -> list[Path]:
    return [value for name in INPUTS if isinstance(value := getattr(job, name, None), Path)]


def _file_sha256(path: Path) -> str:
    about = path.stat()
    key = (str(path), about.st_size, about.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as stream:
            _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashes[key]


@contextmanager
def _reports(worker: Any, topic: str) -> Iterator[None]:
    """Send the number of finished steps to the client now and then, while in the context. A cancelled job ends at its next step."""
    waiting, last, key = 0, time.monotonic(), worker.get_current_task()

    def send() -> None:
        nonlocal waiting, last
        worker.log_event(topic, waiting)
        waiting, last = 0, time.monotonic()

    def count() -> None:
        nonlocal waiting
        _require_not_cancelled(worker, key)
        waiting += 1
        if time.monotonic() - last > REPORT_S:
            send()

    with progress_count.counting(count):
        yield
    send()
