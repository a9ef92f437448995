"""A live server: latency compared with the same work in process, its memory, and clients at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import psutil

from cmb_models.client.grpc import Client
from cmb_models.volume import Volume


def by_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, `rounds` of them after one to warm up, taking turns so that a busy minute hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if n:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@dataclass
class Memory:
    """Most memory seen of a process and its children, shared pages counted once, GiB."""

    peak_gb: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def watched(pid: int, every_s: float = 0.2) -> Iterator[Memory]:
    """Watch a process's memory while the block runs."""
    memory = Memory()

    def watch() -> None:
        while not memory._done.wait(every_s):
            memory.peak_gb = max(memory.peak_gb, resident_gb(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        memory._done.set()
        thread.join()


def resident_gb(pid: int) -> float:
    """Proportional set size of a process and all its children, GiB."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total / 2**30


def throughput(url: str, volume: Volume, clients: Sequence[int], scans: int) -> list[dict[str, float]]:
    """Scans a minute and latency, for several numbers of clients that share `scans` among them, or send one each."""
    rows = []
    for count in clients:
        latency: list[float] = []
        each = max(1, scans // count)

        def send(_: int, latency: list[float] = latency, each: int = each) -> None:
            with Client(url, timeout_s=600) as client:
                for _ in range(each):
                    start = time.perf_counter()
                    client.detect(volume)
                    latency.append(time.perf_counter() - start)

        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(send, range(count)))
        took = time.perf_counter() - start
        median, most = np.percentile(latency, [50, 95])
        rows.append(
            {"clients": count, "scans_per_minute": 60 * count * each / took, "median_s": float(median), "p95_s": float(most)}
        )
    return rows
