"""Send a scan to a server, get its answer: one class over gRPC. Needs the `client` extra."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cmb_models.client.contract import AFFINE, DETECTOR, INPUTS, OUTPUTS, VOLUME, unpack
from cmb_models.detection import Answer
from cmb_models.errors import InputError
from cmb_models.volume import Volume

MOST_BYTES = 2**31 - 2**20  # a gRPC message holds 2 GiB, the other tensors and the framing included
REFUSAL = re.compile(r"scan: expected (?P<expected>.*), got (?P<got>.*?); (?P<remedy>.*)", re.DOTALL)  # InputError's sentence


@dataclass(frozen=True)
class Serving:
    """Which release a server answers with."""

    release: int
    manifest_sha256: str


class Client:
    """A connection to one server, to be used for many scans and from many threads. url: HOST:PORT of its gRPC service."""

    def __init__(self, url: str, timeout_s: float = 120, model: str = DETECTOR) -> None:
        self.url, self.timeout_s, self.model = url, timeout_s, model
        self._client = grpc.InferenceServerClient(url)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def detect(self, volume: Volume, case: str) -> Answer:
        """Detect in one scan.

        Raises InputError naming `case` when the scan is refused, naming the server when it cannot be reached or has no release,
        and RuntimeError when the server itself fails.
        """
        arrays = {VOLUME: np.ascontiguousarray(volume.data, dtype=VOLUME.dtype), AFFINE: np.ascontiguousarray(volume.affine)}
        if arrays[VOLUME].nbytes > MOST_BYTES:
            raise InputError(case, "a scan below 2 GiB as float32", f"shape {volume.data.shape}", "crop or resample it")
        inputs = []
        for tensor in INPUTS:
            inputs.append(grpc.InferInput(tensor.name, arrays[tensor].shape, np_to_triton_dtype(tensor.dtype)))
            inputs[-1].set_data_from_numpy(arrays[tensor])
        outputs = [grpc.InferRequestedOutput(t.name) for t in OUTPUTS]
        try:
            # No compression: it makes a volume ten times slower over loopback.
            result = self._client.infer(self.model, inputs, outputs=outputs, client_timeout=self.timeout_s)
        except InferenceServerException as error:
            raise self._explained(error, case) from error
        return unpack({t.name: result.as_numpy(t.name) for t in OUTPUTS})

    def serving(self) -> Serving | None:
        """The release that answers now; None when nothing is deployed. Raises InputError when the server cannot be reached."""
        try:
            if not self._client.is_model_ready(self.model, client_timeout=self.timeout_s):
                return None
            config = self._client.get_model_config(self.model, client_timeout=self.timeout_s).config
        except InferenceServerException as error:
            raise self._explained(error, self.url) from error
        return Serving(int(config.parameters["release"].string_value), config.parameters["manifest_sha256"].string_value)

    def _explained(self, error: InferenceServerException, case: str) -> Exception:
        """The error to raise instead: what happened, in which scan or at which server, and what to do."""
        status, text = str(error.status()), error.message() or ""
        refusal = REFUSAL.search(text)
        if refusal and "INVALID_ARGUMENT" in status:
            return InputError(case, **refusal.groupdict())
        if "unknown model" in text or "is not ready" in text or "no available versions" in text:
            return InputError(self.url, "a server with a release deployed", "one without", "run `cmb deploy`")
        if "UNAVAILABLE" in status:
            return InputError(self.url, "a server that answers", "no connection", "start one with `cmb serve`, or correct --server")
        if "DEADLINE_EXCEEDED" in status:
            return InputError(case, f"an answer within {self.timeout_s:g} s", "none", f"look at the server at {self.url}")
        if "INVALID_ARGUMENT" in status:
            return InputError(case, "a scan the server takes", text, "check that client and server are of one version")
        return RuntimeError(f"{case}: the server at {self.url} failed ({status}): {text}")
