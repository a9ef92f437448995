"""The trace of a request: identity and timings, passed between the Python steps' processes as a tensor."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from cmb_models.errors import InputError

ROLES = {"as_challenger": "challenger", "as_probe": "probe"}  # ensemble's input of the first step -> role of its requests
PRODUCTION, PROBE = "production", "probe"


@dataclass
class Trace:
    """One request. role: "production", "challenger" or "probe", by the called ensemble (step.ROLE_INPUTS).

    id: random, since the client's may name a patient. shape, spacing_mm: of the scan as stored, None while unknown. seconds: by
    step; for a network from the end of the previous step to the start of the next, including queue and copying.
    """

    role: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    input_sha256: str | None = None
    shape: list[int] | None = None
    spacing_mm: list[float] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    began_ns: int = field(default_factory=time.monotonic_ns)  # the same clock in all processes
    mark_ns: int = 0

    def __post_init__(self) -> None:
        self.mark_ns = self.mark_ns or self.began_ns

    @classmethod
    def begin(cls, inputs: Mapping[str, np.ndarray]) -> Trace:
        """The trace of a new request, from the first step's inputs."""
        return cls(next((role for name, role in ROLES.items() if name in inputs), PRODUCTION))

    @classmethod
    def unpacked(cls, tensor: np.ndarray | None) -> Trace:
        """The trace of the previous step, a tensor (1,) of bytes. Raises InputError for a missing or invalid one."""
        expected, remedy = "the trace of the previous step", "send scans to the detector, not to its steps"
        if tensor is None:
            raise InputError("step-inconsistent", "trace", expected, "nothing", remedy)
        try:
            return cls(**json.loads(tensor[0]))
        except (ValueError, TypeError, IndexError) as error:
            raise InputError("step-inconsistent", "trace", expected, str(error), remedy) from error

    def packed(self) -> np.ndarray:
        """The trace as a tensor (1,) of bytes."""
        return np.array([json.dumps(asdict(self)).encode()], dtype=np.object_)

    def passed(self, step: str) -> None:
        """Record the end of `step`, which began at the end of the previous one."""
        now = time.monotonic_ns()
        self.seconds[step] = round((now - self.mark_ns) / 1e9, 6)
        self.mark_ns = now

    @property
    def total_s(self) -> float:
        """Seconds from the start of the first step to the last recorded end."""
        return round((self.mark_ns - self.began_ns) / 1e9, 6)
