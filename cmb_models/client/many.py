"""Detection in many scans by one client: several at a time, answers in order, and requests sent again where a server is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from cmb_models.detection import DetectionResult, Detector
from cmb_models.errors import InputError
from cmb_models.volume import ScanLike

# With these the same request may succeed later; others (a certificate, a key, the scan itself) need the user.
RETRIED = ("server-unreachable", "server-without-release", "server-timeout")
REST_S = (0.5, 15.0)  # between two attempts: doubled each time, from the first to the second
MOST_FAILURES = 2  # of the server itself at one scan


@dataclass(frozen=True)
class ScanAnswer:
    """The answer for one scan.

    Attributes:
        number: Of the scan, from 0, in the order they were passed.
        scan: As it was passed.
        result: Detections, without the scan's volume; None for one that failed.
        error: Why it failed: InputError for a rejected scan or a server that was away until the deadline, RuntimeError if the
            server failed on it or memory did not suffice; None for an answered one.
    """

    number: int
    scan: ScanLike
    result: DetectionResult | None = None
    error: InputError | RuntimeError | None = None


def detect_many(
    detector: Detector,
    scans: Iterable[ScanLike],
    at_a_time: int,
    deadline_s: float,
    stop: threading.Event | None = None,
) -> Generator[ScanAnswer]:
    """Answers in the order of `scans`, which is read at most `at_a_time` ahead. Arguments as of client.grpc.Client.detect_many.

    stop: ends waits between attempts, and the iteration, from another thread.
    """
    stop = stop or threading.Event()
    with ThreadPoolExecutor(at_a_time, "detect_many") as pool:
        waiting: deque[Future[ScanAnswer]] = deque()
        try:
            further = enumerate(scans)
            while not stop.is_set():
                for number, scan in itertools.islice(further, at_a_time - len(waiting)):
                    waiting.append(pool.submit(_answer, detector, number, scan, deadline_s, stop))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


async def detect_many_async(
    detector: Detector, scans: Iterable[ScanLike], at_a_time: int, deadline_s: float
) -> AsyncIterator[ScanAnswer]:
    """As `detect_many`, for an event loop: requests run in threads. A cancelled task starts no further requests."""
    stop = threading.Event()
    answers = detect_many(detector, scans, at_a_time, deadline_s, stop)
    try:
        while (answer := await asyncio.to_thread(next, answers, None)) is not None:
            yield answer
    finally:
        stop.set()
        with contextlib.suppress(ValueError):  # a cancelled task leaves it running in its thread, which ends by `stop`
            await asyncio.to_thread(answers.close)  # waits for requests under way


def _answer(detector: Detector, number: int, scan: ScanLike, deadline_s: float, stop: threading.Event) -> ScanAnswer:
    began, rest_s, failures = time.monotonic(), REST_S[0], 0
    while True:
        try:
            return ScanAnswer(number, scan, replace(detector.detect(scan), volume=None))
        except InputError as error:
            failed: InputError | RuntimeError = error
            final = error.code not in RETRIED
        except MemoryError as error:
            failed, final = RuntimeError(str(error) or "not enough memory for this scan"), True
        except RuntimeError as error:
            failures += 1
            failed, final = error, failures >= MOST_FAILURES
        if final or time.monotonic() + rest_s - began > deadline_s or stop.wait(rest_s):
            return ScanAnswer(number, scan, error=failed)
        rest_s = min(2 * rest_s, REST_S[1])
