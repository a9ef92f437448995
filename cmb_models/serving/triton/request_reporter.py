"""Request reporting by a step: one line per request in the log, and Prometheus metrics. Its faults never affect a response."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmb_models.client.log_lines import LineLog
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.runtime.device import is_of_device
from cmb_models.serving.triton.request_metrics import Metrics
from cmb_models.serving.triton.request_trace import Trace
from cmb_models.serving.triton.step import RELEASE_FILE, version_folder

LOG_VARIABLE = "CMB_REQUEST_LOG"  # the file to write to; no request log without


class RequestReporter:
    """The reporter of one step. A request is reported once, by the last step that processed it."""

    def __init__(self, args: dict[str, str]) -> None:
        identity = read_json(version_folder(args) / RELEASE_FILE)
        self.release, self.manifest_sha256 = identity["release"], identity["manifest_sha256"]
        self.golden = identity.get("golden", {})  # shape and sha256 of the golden scan; missing in older releases
        self.metrics = Metrics(self.release)
        file = os.environ.get(LOG_VARIABLE)
        self._log = LineLog(Path(file)) if file else None
        self._warned = False

    def close(self) -> None:
        """Send pending metrics; called from `finalize`."""
        self.metrics.close()

    def started(self, trace: Trace) -> None:
        """Count a received request; one that is never reported was lost in a network, or with the server."""
        if trace.role != "probe":
            self.metrics.add("cmb_started_total", role=trace.role)

    @contextlib.contextmanager
    def step(self, trace: Trace, name: str) -> Iterator[None]:
        """Time a step's work; report a request that ends here by a rejection or a fault."""
        try:
            yield
        except InputError as error:
            trace.passed(name)
            if is_of_device(error):
                self._report(trace, "failed", cause=error.code)
                raise
            self._report(trace, "refused", cause=error.code)
            if trace.role != "probe":
                self.metrics.add("cmb_refusals_total", role=trace.role, cause=error.code)
            raise
        except Exception as error:
            trace.passed(name)
            self._report(trace, "failed", cause=type(error).__name__)  # no message, which could quote the scan
            raise
        trace.passed(name)

    def answered(self, trace: Trace, scores: np.ndarray, threshold: float) -> None:
        """Report an answered request. scores: (N,) of its candidates, in [0, 1]."""
        found = int(np.count_nonzero(scores >= threshold))
        self._report(trace, "ok", candidates=len(scores), detections=found, threshold=threshold)
        if trace.role == "probe":
            return
        role, add = trace.role, self.metrics.add
        add("cmb_candidates", [len(scores)], role=role)
        add("cmb_detections", [found], role=role)
        add("cmb_score", scores.tolist(), role=role)
        add("cmb_request_seconds", [trace.total_s], role=role)
        for step, seconds in trace.seconds.items():
            add("cmb_step_seconds", [seconds], role=role, step=step)

    def _report(self, trace: Trace, outcome: str, **more: object) -> None:
        if trace.role == "probe":
            self.metrics.add("cmb_probe_requests_total", outcome=outcome)
        else:
            self.metrics.add("cmb_requests_total", role=trace.role, outcome=outcome)
        self._write(
            {
                "request": trace.id,
                "role": trace.role,
                "release": self.release,
                "manifest_sha256": self.manifest_sha256,
                "input_sha256": trace.input_sha256,
                "shape": trace.shape,
                "spacing_mm": trace.spacing_mm,
                "outcome": outcome,
                **more,
                "seconds": trace.seconds,
                "total_s": trace.total_s,
            }
        )

    def _write(self, entry: dict) -> None:
        """Append to the log, if any; the first failure goes to the server's log, later ones are only counted."""
        if self._log is None:
            return
        try:
            self._log.append(entry)
            self._warned = False
        except Exception as error:
            self.metrics.add("cmb_request_log_lost_total")
            if not self._warned:
                import triton_python_backend_utils as pb  # exists only inside the server

                pb.Logger.log_warn(
                    f"the request log {self._log.file} cannot be written, requests are processed without it: {error}"
                )
            self._warned = True
