"""What is known of one request so far. It travels from Python step to Python step as a tensor, each being a process of its own."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from cmb_models.errors import InputError

ROLES = {"as_challenger": "challenger", "as_probe": "probe"}  # an ensemble's own input of the first step -> what its requests are
PRODUCTION, PROBE = "production", "probe"


@dataclass
class Trace:
    """One request. role: "production", "challenger" or "probe", by the ensemble that was called (step.ROLE_INPUTS).

    id: drawn here; the client's own may name a patient. shape, spacing_mm: of the scan as stored, None while unknown. seconds: of
    each step; of a network from the end of the step before to the start of the next, its queue and the copying included.
    """

    role: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    input_sha256: str | None = None
    shape: list[int] | None = None
    spacing_mm: list[float] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    began_ns: int = field(default_factory=time.monotonic_ns)  # one clock for all processes of a machine
    mark_ns: int = 0

    def __post_init__(self) -> None:
        self.mark_ns = self.mark_ns or self.began_ns

    @classmethod
    def begin(cls, inputs: Mapping[str, np.ndarray]) -> Trace:
        """A request that has just come in, by the first step's inputs."""
        return cls(next((role for name, role in ROLES.items() if name in inputs), PRODUCTION))

    @classmethod
    def unpacked(cls, tensor: np.ndarray | None) -> Trace:
        """The trace that the step before handed on, a tensor (1,) of bytes. Raises InputError for any other, and for none."""
        expected, remedy = "what the step before handed on", "send scans to the detector, not to its steps"
        if tensor is None:
            raise InputError("step-inconsistent", "trace", expected, "nothing", remedy)
        try:
            return cls(**json.loads(tensor[0]))
        except (ValueError, TypeError, IndexError) as error:
            raise InputError("step-inconsistent", "trace", expected, str(error), remedy) from error

    def packed(self) -> np.ndarray:
        """Itself as a tensor (1,) of bytes."""
        return np.array([json.dumps(asdict(self)).encode()], dtype=np.object_)

    def passed(self, step: str) -> None:
        """Note that `step` ends now; it began when the last one ended."""
        now = time.monotonic_ns()
        self.seconds[step] = round((now - self.mark_ns) / 1e9, 6)
        self.mark_ns = now

    @property
    def total_s(self) -> float:
        """Seconds from the first step's start to the last end noted."""
        return round((self.mark_ns - self.began_ns) / 1e9, 6)
