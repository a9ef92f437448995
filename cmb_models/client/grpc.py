"""The gRPC client, a detector on a server. Needs the `client` extra."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import grpc
import numpy as np

from cmb_models.client import many
from cmb_models.client.connection import MAX_BYTES, Tls, channel, endpoint, unreachable
from cmb_models.client.contract import AFFINE, DETECTOR, OUTPUTS, PHASE, VOLUME, Tensor, inputs_of, unpack
from cmb_models.client.kserve import Service, infer_request, output_arrays
from cmb_models.dataset.scans import open_phase, open_scan
from cmb_models.detect.checks import check_grid
from cmb_models.detect.phase import check_phase
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError, from_status
from cmb_models.volume import ScanLike, Volume

FRAMING_BYTES = 2**20  # reserved for small tensors and names


@dataclass(frozen=True)
class Serving:
    """The release that a server runs."""

    release: int
    manifest_sha256: str


class Client:
    """A Detector that uses a server. May be shared between threads; nothing is sent before the first call.

    Args:
        url: HOST:PORT of the server's gRPC service, optionally with the prefix grpc:// or grpcs://.
        timeout_s: Seconds to wait for each response.
        model: Name of the served model, which selects the role.
        tls: Certificates; if None, the environment decides (client.connection).
        shared_memory: Pass scans through shared memory to a server on the same machine; Linux only, needs CMB_ADMIN_KEY.

    Raises:
        InputError: If a certificate file is not usable.
    """

    def __init__(
        self, url: str, timeout_s: float = 120, model: str = DETECTOR, tls: Tls | None = None, shared_memory: bool = False
    ) -> None:
        self._channel = channel(url, tls)
        self._service = Service(self._channel)
        (self.url, self._tls), self.timeout_s, self.model = endpoint(url, tls), timeout_s, model
        self._request = self._shared if shared_memory else self._sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def detect(self, scan: ScanLike, phase: ScanLike | None = None, *, case: str | None = None) -> DetectionResult:
        """Detect microbleeds in one scan, as `detection.Detector` describes.

        Args:
            scan: Path of a NIfTI file, a nibabel image, or a Volume (I, J, K) in any orientation.
            phase: The scan's phase image; not opened unless the release requires it. If None, it is read from the file next to
                `scan` where that is a path.
            case: Name of the scan in error messages; the file's name if None.

        Returns:
            Detections in the scan's own space, with the volume they were found in.

        Raises:
            InputError: Naming `case` if the scan is rejected or its phase image is missing, naming the server if it cannot be
                reached, has no release or answers in another form.
            RuntimeError: If the server itself fails.
        """
        volume, case = open_scan(scan, case)
        requires_phase = self.requires_phase
        image = open_phase(phase, scan, case, requires_phase)
        try:
            return self._infer(volume, case, image, requires_phase).found_in(volume)
        except grpc.RpcError as error:
            # The server may have switched to a release of the other kind since the query.
            if error.code() != grpc.StatusCode.INVALID_ARGUMENT or self.requires_phase == requires_phase:
                raise self._error(error, case) from error
        return self.detect(scan, phase, case=case)

    def detect_many(self, scans: Iterable[ScanLike], *, at_a_time: int = 2, deadline_s: float = 600) -> Iterator[many.ScanAnswer]:
        """Detect in many scans, several at a time.

        Args:
            scans: As of `detect`, with phase images next to files; read no further ahead than `at_a_time`, so they may be an
                iterator over more scans than fit in memory.
            at_a_time: Requests under way at most, from 1. The next scan is sent when the next answer is taken.
            deadline_s: Seconds from a scan's first attempt after which it is not sent again. Requests are sent again, after growing
                pauses, while the server cannot be reached, has no release or does not answer in time, and once if it fails.

        Yields:
            An answer for each scan, in their order: a result, or the error. Nothing for no scans.

        Raises:
            InputError: If `at_a_time` is no whole number from 1.
        """
        return many.detect_many(self, scans, _positive(at_a_time), deadline_s)

    def detect_many_async(
        self, scans: Iterable[ScanLike], *, at_a_time: int = 2, deadline_s: float = 600
    ) -> AsyncIterator[many.ScanAnswer]:
        """As `detect_many`, for `async for`."""
        return many.detect_many_async(self, scans, _positive(at_a_time), deadline_s)

    def _infer(self, volume: Volume, case: str, phase: Volume | None, requires_phase: bool) -> DetectionResult:
        arrays = {VOLUME: np.ascontiguousarray(volume.data, dtype=VOLUME.dtype), AFFINE: np.ascontiguousarray(volume.affine)}
        if requires_phase:
            if phase is None:
                expected = f"a phase image with the SWI, which the release at {self.url} uses"
                raise InputError("phase-missing", case, expected, "none", "pass the scan's phase series too (cmb detect: --phase)")
            check_phase(phase, volume, case)  # on the client, since only the SWI's affine is sent
            arrays[PHASE] = np.ascontiguousarray(phase.data, dtype=PHASE.dtype)
        check_grid(volume, case)  # the server checks too, but only after the transfer
        if sum(a.nbytes for a in arrays.values()) > MAX_BYTES - FRAMING_BYTES:
            raise InputError(
                "scan-too-large", case, "a scan below 2 GiB as float32", f"shape {volume.data.shape}", "crop or resample it"
            )
        with self._request({tensor: arrays[tensor] for tensor in inputs_of(requires_phase)}) as request:
            # No compression, which is ten times slower over loopback.
            response = self._service.send("ModelInfer", request, self.timeout_s)
        try:
            return unpack(output_arrays(response, OUTPUTS))
        except ValueError as error:
            remedy = "check that client and server are of one version"
            raise InputError("server-version", self.url, "an answer in this client's form", str(error), remedy) from error

    @contextlib.contextmanager
    def _sent(self, arrays: Mapping[Tensor, np.ndarray]) -> Iterator[Any]:
        request = infer_request(self.model, list(arrays.items()), OUTPUTS)
        for tensor, array in arrays.items():
            request.raw_input_contents.append(np.asarray(array, np.dtype(tensor.dtype).newbyteorder("<")).tobytes())
        yield request

    def _shared(self, arrays: Mapping[Tensor, np.ndarray]) -> contextlib.AbstractContextManager[Any]:
        from cmb_models.client.shared_memory import shared_request  # Linux only

        return shared_request(self._service, self.model, arrays, self.url, self.timeout_s)

    @property
    def requires_phase(self) -> bool:
        """Whether the current release needs each scan's phase image; queries the server.

        Raises:
            InputError: As `detect`, naming the server.
        """
        try:
            metadata = self._service.call("ModelMetadata", self.timeout_s, name=self.model)
        except grpc.RpcError as error:
            raise self._error(error, self.url) from error
        return PHASE.name in {tensor.name for tensor in metadata.inputs}

    def serving(self) -> Serving | None:
        """The current release; None if nothing is deployed.

        Raises:
            InputError: If the server cannot be reached.
        """
        try:
            if not self._service.call("ModelReady", self.timeout_s, name=self.model).ready:
                return None
            config = self._service.call("ModelConfig", self.timeout_s, name=self.model).config
        except grpc.RpcError as error:
            raise self._error(error, self.url) from error
        return Serving(int(config.parameters["release"].string_value), config.parameters["manifest_sha256"].string_value)

    def _error(self, error: grpc.RpcError, case: str) -> Exception:
        """The exception to raise for an error of gRPC."""
        status, text = error.code().name, error.details() or ""
        if status == "INVALID_ARGUMENT" and (rejection := from_status(text, case)):
            return rejection
        if "unknown model" in text or "is not ready" in text or "no available versions" in text:
            return InputError(
                "server-without-release",
                self.url,
                "a server with a release deployed",
                "one without",
                "wait if it has just started, else run `cmb server deploy`",
            )
        if status == "UNAVAILABLE":
            return unreachable(error, self.url, self._tls)
        if status == "DEADLINE_EXCEEDED":
            return InputError(
                "server-timeout", case, f"an answer within {self.timeout_s:g} s", "none", f"check the server at {self.url}"
            )
        if status == "INVALID_ARGUMENT":
            return InputError(
                "request-refused", case, "a scan the server takes", text, "check that client and server are of one version"
            )
        return RuntimeError(f"{case}: the server at {self.url} failed ({status}): {text}")


def _positive(at_a_time: int) -> int:
    if isinstance(at_a_time, bool) or not isinstance(at_a_time, int) or at_a_time < 1:
        raise InputError("setting-invalid", "at_a_time", "a whole number from 1", repr(at_a_time), "correct the argument")
    return at_a_time
