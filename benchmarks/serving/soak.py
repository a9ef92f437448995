"""Hours of a server's life in minutes: `make soak` (half an hour; ARGS="--minutes 2" for less).

Clients send scans of many sizes and orientations, two of a hundred malformed, while the registry promotes and rolls back by turns
and the server is made to follow. Every answer must be the bundle's own, of a release that was in production while it was asked.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.serving.live import resident_gb
from cmb_models.client.grpc import Client
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.registry.mlflow.store import open_registry
from cmb_models.registry.promote import promote, rollback
from cmb_models.release.bundle import BundleDetector
from cmb_models.serving.check.answers import difference, rows_of
from cmb_models.serving.deploy.fleet import Target, deploy_aliases
from cmb_models.serving.run.triton_process import Server, running_server
from cmb_models.volume import Volume
from tests.integration.registry_site import make_site
from tests.support.bundles import head
from tests.support.fuzz import fuzz

MALFORMED = 0.02
SHAPES = ((80, 80, 32), (60, 90, 40), (90, 64, 33), (128, 120, 48), (101, 83, 37))
FIRST, SECOND = 1, 2
WARM_UP = 0.25  # of the time; memory is compared after it
ROOT = Path(__file__).parents[2]


@dataclass
class Life:
    """What happened. serving: (since, releases that may answer), appended when a switch begins and when it is done."""

    answers: int = 0
    outcomes: Counter = field(default_factory=Counter)  # of malformed requests
    faults: list[str] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    switch_s: list[float] = field(default_factory=list)
    memory_gb: list[tuple[float, float]] = field(default_factory=list)
    serving: list[tuple[float, frozenset[int]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allowed(self, start: float, end: float) -> set[int]:
        """Releases that may have answered a request that was sent at `start` and answered at `end`."""
        began = [n for n, (since, _) in enumerate(self.serving) if since <= start][-1]
        return set().union(*(releases for since, releases in self.serving[began:] if since <= end))

    def summary(self, seconds: float) -> dict:
        """The figures; growth of memory is that of the median of the last quarter over the second."""
        since = self.memory_gb[0][0]
        early = [gb for t, gb in self.memory_gb if WARM_UP <= (t - since) / seconds < 2 * WARM_UP]
        late = [gb for t, gb in self.memory_gb if (t - since) / seconds >= 1 - WARM_UP]
        p50, p95, worst = np.percentile(self.latency_s, [50, 95, 100]) if self.latency_s else (np.nan,) * 3
        return {
            "minutes": seconds / 60,
            "answers": self.answers,
            "faults": self.faults[:20],
            "n_faults": len(self.faults),
            "malformed": dict(self.outcomes),
            "switches": len(self.switch_s),
            "switch_median_s": float(np.median(self.switch_s)) if self.switch_s else None,
            "latency_median_s": float(p50),
            "latency_p95_s": float(p95),
            "latency_worst_s": float(worst),
            "memory_gb": float(np.median(late)),
            "memory_growth": float(np.median(late) / np.median(early) - 1),
        }


def soak(folder: Path, seconds: float, every_s: float = 20, clients: int = 3, seed: int = 0) -> dict:
    """Run it in an empty folder; see Life.summary."""
    site = make_site(folder / "site", n_good=2, weak=False)
    promote(str(FIRST), "soak", site)
    promote(str(SECOND), "soak", site)
    scans = [turned(head(shape=shape, seed=n), n) for n, shape in enumerate(SHAPES)]
    expected = {}
    with open_registry(site) as registry:
        for release in (FIRST, SECOND):
            detector = BundleDetector(registry.fetch(registry.resolve(str(release))).bundle_dir)
            expected[release] = [detector.detect(scan) for scan in scans]
    repository, life, done = folder / "repository", Life(), threading.Event()
    with running_server(repository) as server:
        deploy_aliases([Target(server.grpc_url, repository)], site)
        life.serving.append((time.monotonic(), frozenset({SECOND})))
        threads = [
            *(threading.Thread(target=_send, args=(life, done, server, scans, expected, seed + n)) for n in range(clients)),
            threading.Thread(target=_move, args=(life, done, server, repository, site, every_s)),
            threading.Thread(target=_remember, args=(life, done, server, min(5.0, seconds / 40))),
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        done.set()
        for thread in threads:
            thread.join()
        if not server.alive():
            life.faults.append("the server ended")
    return life.summary(seconds)


def turned(scan: Volume, n: int) -> Volume:
    """A scan stored in another orientation for each n: axes exchanged and flipped, every world position kept."""
    axes = [(0, 1, 2), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0)][n % 5]
    data, affine = np.transpose(scan.data, axes), scan.affine.copy()
    affine[:, :3] = scan.affine[:, list(axes)]
    if n % 2:
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        data, affine[:3, 0] = np.flip(data, 0), -affine[:3, 0]
    return Volume(np.ascontiguousarray(data), affine)


def _send(life: Life, done: threading.Event, server: Server, scans, expected, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with Client(server.grpc_url) as client:
        while not done.is_set():
            n, start = int(rng.integers(len(scans))), time.monotonic()
            if rng.random() < MALFORMED:
                outcomes = fuzz(server.grpc_url, 1, int(rng.integers(2**31)), server.http_url)
                with life.lock:
                    life.outcomes += outcomes
                    life.faults += [f"malformed: {what}" for what in outcomes if amiss(what)]
                continue
            try:
                answer = client.detect(scans[n], case=f"scan {n}")
            except (InputError, RuntimeError) as error:
                life.faults.append(str(error))
                continue
            end = time.monotonic()
            with life.lock:
                life.answers += 1
                life.latency_s.append(end - start)
                if answer.release not in (allowed := life.allowed(start, end)):
                    life.faults.append(f"release {answer.release} answered while {sorted(allowed)} was in production")
                elif fault := fault_of(answer, expected[answer.release][n]):
                    life.faults.append(f"scan {n}, release {answer.release}: {fault}")


def amiss(outcome: str) -> bool:
    """Whether a malformed request met something that none should (fuzz.py); one for a version being unloaded gets that reason."""
    return (":" in outcome or outcome.startswith("wordless")) and "not at ready state" not in outcome


def fault_of(answer: DetectionResult, own: DetectionResult) -> str:
    """How an answer differs from the bundle's own, "" where it does not."""
    if answer.manifest_sha256 != own.manifest_sha256 or answer.threshold != own.threshold:
        return "another manifest or threshold"
    return difference(rows_of(own), rows_of(answer))


def _move(life: Life, done: threading.Event, server: Server, repository: Path, site: Path, every_s: float) -> None:
    now = SECOND
    while not done.wait(every_s):
        try:
            rollback("soak", site) if now == SECOND else promote(str(SECOND), "soak", site)
            start = time.monotonic()
            with life.lock:
                life.serving.append((start, frozenset({FIRST, SECOND})))
            deploy_aliases([Target(server.grpc_url, repository)], site)
        except Exception as error:  # whatever it is, the report has it
            life.faults.append(f"move: {type(error).__name__}: {error}")
            return
        now = FIRST if now == SECOND else SECOND
        with life.lock:
            life.switch_s.append(time.monotonic() - start)
            life.serving.append((time.monotonic(), frozenset({now})))


def _remember(life: Life, done: threading.Event, server: Server, every_s: float) -> None:
    while not done.wait(every_s):
        life.memory_gb.append((time.monotonic(), resident_gb(server.pid)))


def main(
    minutes: Annotated[float, typer.Option(min=0.5)] = 30,
    every_s: Annotated[float, typer.Option(min=1, help="Seconds between a promotion and a rollback.")] = 20,
    out: Annotated[Path, typer.Option(help="Where soak.json goes.")] = ROOT / "benchmarks/results",
) -> None:
    """Send scans for a while as releases change; exit 1 when anything went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), 60 * minutes, every_s)
    write_json(out / "soak.json", found)
    Console().print_json(data=found)
    if found["n_faults"] or found["memory_growth"] > 0.05:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
