"""Several servers of one release as one detector: each request goes to a healthy one, and is sent again where one fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmb_models.client.grpc import Client
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.volume import Volume

log = logging.getLogger(__name__)

# Of a server rather than a scan: the request is sent again, to another one.
SERVER_FAULTS = ("server-unreachable", "server-without-release", "server-timeout")
REST_S = (1.0, 30.0)  # until a server that failed is asked again: doubled each time, from the first to the second
PATIENCE_S = 600.0  # without any answer before the run ends
MOST_TRIES = 6  # for a scan at which servers fail while they answer others


@dataclass
class _Server:
    client: Client
    busy: int = 0  # requests under way
    rest_s: float = REST_S[0]
    again_at: float = 0.0  # time.monotonic() from which it may be asked


@dataclass
class _Attempts:
    """Of one scan. since: time.monotonic() of the first. failures: of the server itself, in which it answered with an error."""

    since: float
    tries: int = 0
    failures: int = 0


class Servers:
    """Servers that run one release. Shared between threads.

    Args:
        urls: Addresses as of client.grpc.Client.
        slots: Requests at a time for each server.
        manifest_sha256: Of the release that all of them must serve; None for the first server's own.
        patience_s: Seconds without an answer from any server after which a request fails.

    Raises:
        InputError: If no server answers at first, or two serve different releases.
    """

    def __init__(
        self, urls: Sequence[str], slots: int = 2, manifest_sha256: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self._servers = [_Server(Client(url)) for url in urls]
        self._slots, self._patience_s = slots, patience_s
        self._change = threading.Condition()
        self._ended, self._answered_at = False, 0.0
        try:
            self.manifest_sha256 = self._agree(manifest_sha256)
            self.requires_phase = self._ask_phase()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            server.client.close()

    def end(self) -> None:
        """Let requests that wait for a server fail at once."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    @property
    def slots(self) -> int:
        """Requests at a time for all servers together."""
        return self._slots * len(self._servers)

    def detect(self, volume: Volume, phase: Volume | None, case: str) -> tuple[DetectionResult, str]:
        """Detect in one scan.

        Args:
            volume: The scan.
            phase: Its phase image, where the release uses it.
            case: The scan's name in messages.

        Returns:
            The result without its volume, and the address of the server that gave it.

        Raises:
            InputError: If the scan is rejected, or no server answered anything for `patience_s`.
            RuntimeError: If servers failed on this scan twice with an error of their own, or MOST_TRIES times in any way.
        """
        attempts = _Attempts(time.monotonic())
        while True:
            with self._server() as server:
                try:
                    answer = server.client.detect(volume, phase, case=case)
                except InputError as error:
                    if error.code not in SERVER_FAULTS:
                        raise
                    self._failed(server, case, str(error), attempts)
                    continue
                except RuntimeError as error:
                    attempts.failures += 1
                    if attempts.failures > 1:
                        raise
                    self._failed(server, case, str(error), attempts)
                    continue
                if answer.manifest_sha256 != self.manifest_sha256:
                    self._failed(server, case, f"{server.client.url} serves another release now", attempts)
                    continue
                server.rest_s, self._answered_at = REST_S[0], time.monotonic()
                return DetectionResult(
                    answer.candidates, answer.threshold, answer.release, answer.manifest_sha256
                ), server.client.url

    @contextmanager
    def _server(self) -> Iterator[_Server]:
        """A server with a free slot, the least busy one; waits for it."""
        with self._change:
            while (server := self._free()) is None and not self._ended:
                self._change.wait(0.1)
            if server is None or self._ended:
                raise self._none_left("a run that ends")
            server.busy += 1
        try:
            yield server
        finally:
            with self._change:
                server.busy -= 1
                self._change.notify()

    def _failed(self, server: _Server, case: str, reason: str, attempts: _Attempts) -> None:
        """Leave a server out for a while, unless it is the scan that no server survives, or no server is left.

        Raises:
            InputError: If no request was answered for `patience_s`.
            RuntimeError: If this one failed MOST_TRIES times, while others were answered.
        """
        self._leave_out(server, reason)
        attempts.tries += 1
        if attempts.tries >= MOST_TRIES and self._answered_at > attempts.since:
            raise RuntimeError(f"{case}: servers failed {attempts.tries} times on this scan, and not on others; last: {reason}")
        if time.monotonic() - max(attempts.since, self._answered_at) > self._patience_s:
            raise self._none_left(f"no answer for {self._patience_s:g} s")

    def _none_left(self, got: str) -> InputError:
        urls = ", ".join(s.client.url for s in self._servers)
        remedy = "start a server and run the same command again: finished partitions are kept"
        return InputError("server-unreachable", urls, "a server of the release", got, remedy)

    def _free(self) -> _Server | None:
        now = time.monotonic()
        free = [s for s in self._servers if s.busy < self._slots and s.again_at <= now]
        return min(free, key=lambda s: s.busy, default=None)

    def _leave_out(self, server: _Server, reason: str) -> None:
        with self._change:
            if server.again_at <= time.monotonic():  # not by each of the requests that failed together
                server.again_at = time.monotonic() + server.rest_s
                log.warning("%s; it is asked again in %.0f s", reason, server.rest_s)
                server.rest_s = min(2 * server.rest_s, REST_S[1])

    def _agree(self, manifest_sha256: str | None) -> str:
        """The hash of the release that all servers which answer have; those that do not are left out for now."""
        found: dict[str, str] = {}
        reasons = []
        for server in self._servers:
            try:
                serving = server.client.serving()
                if serving:
                    found[server.client.url] = serving.manifest_sha256
                    continue
                reasons.append(f"{server.client.url} has no release")
            except InputError as error:
                if error.code not in SERVER_FAULTS:
                    raise
                reasons.append(str(error))
            self._leave_out(server, reasons[-1])
        if not found:
            urls = ", ".join(s.client.url for s in self._servers)
            raise InputError(
                "server-unreachable", urls, "a server that answers", "; ".join(reasons), "start one, or correct --server"
            )
        wanted = manifest_sha256 or next(iter(found.values()))
        if others := {url: sha256 for url, sha256 in found.items() if sha256 != wanted}:
            got = ", ".join(f"{sha256[:12]} on {url}" for url, sha256 in others.items())
            remedy = "deploy one release on all servers, or write to another folder: results of two releases are not mixed"
            raise InputError("results-mixed", "servers", f"the release {wanted[:12]} on all servers", got, remedy)
        return wanted

    def _ask_phase(self) -> bool:
        for server in self._servers:
            if server.again_at <= time.monotonic():
                return server.client.requires_phase
        raise AssertionError("no server answered, which _agree refuses")


def read_scan(path: Path, phase: Path | None, requires_phase: bool) -> tuple[Volume, Volume | None]:
    """A scan and, where the release uses it, its phase image. Raises InputError for unusable files."""
    from cmb_models.dataset.layout import read_phase
    from cmb_models.io.nifti import read_volume

    return read_volume(path, needs_place=False), read_phase(path, phase, needs_place=False) if requires_phase else None
