"""The device that a server runs on: set when it starts, read from its metrics."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Mapping

from cmb_models.runtime.device import VARIABLE, requested_device, require_device
from cmb_models.serving.triton.device_metric import NAME

METRIC = re.compile(rf"^{NAME}\{{(?P<labels>[^}}]*)\}} 1$", re.MULTILINE)
TIMEOUT_S = 5.0


def set_device(device: str | None) -> None:
    """Pass a device to the server that this process starts; None leaves what the environment says.

    Raises:
        InputError: If there is no such device.
    """
    value = device or requested_device()
    require_device(value, "--device" if device else VARIABLE)
    os.environ[VARIABLE] = value


def without_cards(environment: Mapping[str, str]) -> dict[str, str]:
    """A server's environment, in which it sees no CUDA device if it requests the CPU: else Triton would reserve memory on each."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if environment.get(VARIABLE) == "cpu" else {}
    return {**environment, **hidden}


def step_devices(metrics_url: str) -> list[str]:
    """One line per step of a running server that can use a device: release, device, and why it is not another.

    Triton renders its metrics once per second at most: what was loaded just now may be missing.
    """
    with urllib.request.urlopen(f"http://{metrics_url}/metrics", timeout=TIMEOUT_S) as response:
        text = response.read().decode()
    lines = []
    for found in METRIC.finditer(text):
        label = dict(re.findall(r'(\w+)="([^"]*)"', found["labels"]))
        reason = f" ({label['reason']})" if label["reason"] else ""
        lines.append(f"{label['model']} of release {label['release']} on {label['device']}{reason}")
    return sorted(lines)
