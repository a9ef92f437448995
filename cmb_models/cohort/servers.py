"""Several servers of one release as one detector: each request goes to a healthy one, and is sent again where one fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cmb_models.client.grpc import Client
from cmb_models.client.many import RETRIED
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.volume import Volume

log = logging.getLogger(__name__)

REST_S = (1.0, 30.0)  # until a server that failed is asked again: doubled each time, from the first to the second
PATIENCE_S = 600.0  # without any answer before the run ends
OF_A_SCAN = ("scan-", "phase-")  # first letters of the codes of faults in scans and, of releases with phase, in phase images
MOST_FAILURES = 3  # of healthy servers at one scan; before the last of them the server has answered another scan again


class _Rejected(Exception):
    """A server answered, and the scan is at fault."""

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class _Server:
    client: Client
    busy: int = 0  # requests under way
    suspect: bool = False  # whether its last request failed
    rest_s: float = REST_S[0]
    again_at: float = 0.0  # time.monotonic() from which it may be asked


@dataclass(frozen=True)
class _Request:
    """One scan and its phase image. case: its name in messages."""

    volume: Volume
    phase: Volume | None
    case: str


@dataclass
class _Attempts:
    """Of one scan. since: time.monotonic() of the first. failures: of servers that were healthy when asked."""

    since: float
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
        self._ended, self._answered_at, self._alone = False, 0.0, 0  # _alone: requests that wait for an idle server
        self._control: _Request | None = None  # a scan that was answered
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
            RuntimeError: If healthy servers failed MOST_FAILURES times on this scan, the last after it had answered another one.
        """
        request, attempts = _Request(volume, phase, case), _Attempts(time.monotonic())
        while True:
            control = self._control if attempts.failures + 1 >= MOST_FAILURES else None
            # Alone on its server: a scan that ends it would take others with it, which then seem to fail as often.
            with self._server(alone=control is not None) as server:
                healthy = False
                try:
                    if server.suspect:
                        self._require_release(server)
                    if control is not None:
                        self._ask_control(server, control)
                    healthy = True
                    answer = self._ask(server, request)
                except _Rejected as rejected:
                    raise rejected.error from None
                except (InputError, RuntimeError) as error:
                    attempts.failures += healthy
                    reason = " ".join(str(error).split())
                    if control is not None and healthy:
                        failed = f"servers failed {attempts.failures} times on this scan, but not on another"
                        raise RuntimeError(f"{case}: {failed}; {reason}") from error
                    self._failed(server, reason, attempts)
                    continue
                self._control = request
                return answer, server.client.url

    def _ask_control(self, server: _Server, control: _Request) -> None:
        """Raise InputError or RuntimeError unless a server answers a scan that was answered before."""
        try:
            self._ask(server, control)
        except _Rejected as rejected:
            raise rejected.error from rejected

    def _ask(self, server: _Server, request: _Request) -> DetectionResult:
        """One request to one server.

        Raises:
            _Rejected: If the scan is at fault.
            InputError, RuntimeError: If the server is.
        """
        try:
            answer = server.client.detect(request.volume, request.phase, case=request.case)
        except InputError as error:
            of_the_scan = error.code.startswith(OF_A_SCAN if self.requires_phase else OF_A_SCAN[:1])
            if not of_the_scan:
                raise
            self._require_release(server)  # another release may have other requirements
            self._answered(server)
            raise _Rejected(error) from error
        self._require_release(server, answer.manifest_sha256)
        self._answered(server)
        return DetectionResult(answer.candidates, answer.threshold, answer.release, answer.manifest_sha256)

    def _require_release(self, server: _Server, manifest_sha256: str | None = None) -> None:
        """Raise InputError unless a server has the run's release. manifest_sha256: as in its answer; None to query it."""
        if manifest_sha256 is None:
            serving = server.client.serving()
            if serving is None:
                raise _without_release(server.client.url)
            manifest_sha256 = serving.manifest_sha256
        if manifest_sha256 != self.manifest_sha256:
            expected, got = (f"the release {sha256[:12]}" for sha256 in (self.manifest_sha256, manifest_sha256))
            raise InputError("results-mixed", server.client.url, expected, got, "deploy the same release on all servers")

    def _answered(self, server: _Server) -> None:
        server.rest_s, server.suspect, self._answered_at = REST_S[0], False, time.monotonic()

    @contextmanager
    def _server(self, alone: bool = False) -> Iterator[_Server]:
        """A server with a free slot, the least busy one, or all slots of an idle one; waits for it."""
        with self._change:
            self._alone += alone
            try:
                while (server := self._free(alone)) is None and not self._ended:
                    self._change.wait(0.1)
            finally:
                self._alone -= alone
            if server is None or self._ended:
                raise self._none_left("a run that ends")
            taken = self._slots if alone else 1
            server.busy += taken
        try:
            yield server
        finally:
            with self._change:
                server.busy -= taken
                self._change.notify_all()

    def _failed(self, server: _Server, reason: str, attempts: _Attempts) -> None:
        """Leave a server out for a while. Raises InputError if no request was answered for `patience_s`."""
        self._leave_out(server, reason)
        if time.monotonic() - max(attempts.since, self._answered_at) > self._patience_s:
            raise self._none_left(f"no answer for {self._patience_s:g} s; {reason}")

    def _none_left(self, got: str) -> InputError:
        urls = ", ".join(s.client.url for s in self._servers)
        remedy = "start a server and run the same command again: finished partitions are kept"
        return InputError("server-unreachable", urls, "a server of the release", got, remedy)

    def _free(self, alone: bool) -> _Server | None:
        now = time.monotonic()
        most = 0 if alone else self._slots - 1
        if self._alone and not alone:  # else no server would ever be idle
            return None
        free = [s for s in self._servers if s.busy <= most and s.again_at <= now]
        return min(free, key=lambda s: s.busy, default=None)

    def _leave_out(self, server: _Server, reason: str) -> None:
        with self._change:
            server.suspect = True
            if server.again_at <= time.monotonic():  # not by each of the requests that failed together
                server.again_at = time.monotonic() + server.rest_s
                log.warning("%s; it is asked again in %.0f s", reason, server.rest_s)
                server.rest_s = min(2 * server.rest_s, REST_S[1])

    def _agree(self, manifest_sha256: str | None) -> str:
        """The hash of the release that all servers which answer have; those that do not are left out for now."""
        found: dict[str, str] = {}
        failed: list[tuple[_Server, InputError]] = []
        for server in self._servers:
            try:
                serving = server.client.serving()
                if serving:
                    found[server.client.url] = serving.manifest_sha256
                    continue
                failed.append((server, _without_release(server.client.url)))
            except InputError as error:
                if error.code not in RETRIED:
                    raise
                failed.append((server, error))
        if not found:
            raise _none_usable([error for _, error in failed])
        for server, reason in failed:
            self._leave_out(server, str(reason))
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


def _without_release(url: str) -> InputError:
    return InputError("server-without-release", url, "a server with a release deployed", "one without", "run `cmb server deploy`")


def _none_usable(errors: Sequence[InputError]) -> InputError:
    """The errors of all servers as one; each error's case is the server's address."""
    error, urls = errors[0], ", ".join(e.case for e in errors)
    if len({(e.code, e.expected, e.got) for e in errors}) == 1:
        return InputError(error.code, urls, error.expected, error.got, error.remedy)
    got = "; ".join(f"{e.case}: {e.got} in place of {e.expected}" for e in errors)
    remedy = "start a server with `cmb server run`, deploy a release with `cmb server deploy`, or correct --server"
    return InputError("server-unreachable", urls, "a server with a release", got, remedy)
