"""Where a served step runs, in the server's metrics and log."""

from __future__ import annotations

from typing import Any

from cmb_models.runtime.device import OnDevice

NAME = "cmb_step_device"


class DeviceMetric:
    """Keeps the metric `cmb_step_device` of one step: 1 for the device in use, 0 for one that was given up.

    Args:
        args: Of the model's `initialize`.
        place: What runs there. A fall-back to the CPU is logged and counted from then on.
    """

    def __init__(self, args: dict[str, str], place: OnDevice[Any]) -> None:
        import triton_python_backend_utils as pb  # exists only inside the server

        self._log = pb.Logger
        self._place = place
        self._labels = {"model": args["model_name"], "release": args["model_version"]}
        self._family = pb.MetricFamily(
            name=NAME, description="1 for the device that a step of a release runs on", kind=pb.MetricFamily.GAUGE
        )
        place.on_fallback = self._fell_back
        self._report()

    def _report(self) -> None:
        self._log.log_info(f"{self._labels['model']} {self._labels['release']}: device {self._place}")
        self._metric = self._family.Metric(
            labels={**self._labels, "device": self._place.name, "reason": _label(self._place.reason)}
        )
        self._metric.set(1)

    def _fell_back(self, message: str) -> None:
        """Called for each request that the device could not process, and when it is given up."""
        self._log.log_warn(message)
        if self._place.accelerated is None:
            self._metric.set(0)
            self._report()


def _label(text: str) -> str:
    """Without what would need escapes in the text format of metrics."""
    for character, other in (('"', "'"), ("\\", "/"), ("{", "("), ("}", ")"), ("\n", " ")):
        text = text.replace(character, other)
    return text
