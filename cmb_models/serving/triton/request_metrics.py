"""Counters and histograms for Prometheus, exposed at Triton's metrics port.

Each update is a message to the server's process, sent by a background thread so that no response waits for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
# Name: description, and the bucket bounds of a histogram; None for a counter.
METRICS: dict[str, tuple[str, tuple[float, ...] | None]] = {
    "cmb_started_total": ("Scans that reached the first step", None),
    "cmb_requests_total": ("Scans processed, rejected or failed", None),
    "cmb_refusals_total": ("Scans rejected, by cause", None),
    "cmb_probe_requests_total": ("Golden scans sent by deployments, counted nowhere else", None),
    "cmb_request_log_lost_total": ("Lines that could not be written to the request log", None),
    "cmb_candidates": ("Candidates of stage 1 in a scan", (0, 5, 10, 20, 40, 60, 80, 100, 200, 300)),
    "cmb_detections": ("Candidates in a scan that reach the threshold", (0, 1, 2, 4, 9, 19, 49, 99)),
    "cmb_score": ("Calibrated scores of all candidates", (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
    "cmb_step_seconds": ("Seconds of a step; for networks including queue and copying", SECONDS),
    "cmb_request_seconds": ("Seconds from the first step's start to the last one's end", SECONDS),
}
JOIN_S = 2.0


class Metrics:
    """The metrics of one release, as sent by one step. A label set exists from its first update."""

    def __init__(self, release: int) -> None:
        self.release = str(release)
        self._families: dict = {}
        self._metrics: dict = {}
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="metrics", daemon=True)
        self._sender.start()

    def add(self, name: str, values: Iterable[float] = (1,), **labels: str) -> None:
        """Add to a counter, or observe values in a histogram."""
        self._waiting.put((name, tuple(float(v) for v in values), labels))

    def close(self) -> None:
        """Send pending updates, then stop; called when the model is unloaded."""
        self._waiting.put(None)
        self._sender.join(JOIN_S)

    def _send_all(self) -> None:
        import triton_python_backend_utils as pb  # exists only inside the server

        while (item := self._waiting.get()) is not None:
            name, values, labels = item
            try:
                metric = self._metric(name, labels)
                for value in values:
                    (metric.increment if METRICS[name][1] is None else metric.observe)(value)
            except Exception as error:  # metrics must not affect responses
                pb.Logger.log_warn(f"metric {name} could not be sent: {error}")

    def _metric(self, name: str, labels: dict[str, str]):
        import triton_python_backend_utils as pb

        key = (name, *sorted(labels.items()))
        if key not in self._metrics:
            description, bounds = METRICS[name]
            kinds = pb.MetricFamily
            if name not in self._families:
                kind = kinds.COUNTER if bounds is None else kinds.HISTOGRAM
                self._families[name] = pb.MetricFamily(name=name, description=description, kind=kind)
            more = {} if bounds is None else {"buckets": list(bounds)}
            self._metrics[key] = self._families[name].Metric(labels={**labels, "release": self.release}, **more)
        return self._metrics[key]
