"""One check of the gate: its limit, the measured value, and its wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One condition: `measured` must be at least (`min`) or at most (`max`) `limit`.

    measured None: not measured, which fails unless `insufficient_data`: too few data to judge, which is reported and passes.
    interval: 95 % over subjects, of the metric that `measured` is, or is an end of. note: explanation or remedy.
    """

    name: str
    measured: float | None
    bound: str
    limit: float
    interval: tuple[float, float] | None = None
    note: str = ""
    insufficient_data: bool = False

    @property
    def passed(self) -> bool:
        if self.measured is None:
            return self.insufficient_data
        return self.measured >= self.limit if self.bound == "min" else self.measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {**asdict(self), "interval": interval, "passed": self.passed}

    def sentence(self) -> str:
        """The check as a sentence."""
        got = "was not measured" if self.measured is None else f"is {self.measured:.4g}"
        if self.insufficient_data and self.measured is None:
            got = "was not judged"
        need = f"{self.name} {got}, {'at least' if self.bound == 'min' else 'at most'} {self.limit:g} is required"
        return f"{need} ({self.note})" if self.note else need


Interval = Sequence[float] | None


def at_least(name: str, measured: float | None, limit: float | None, interval: Interval = None, note: str = "") -> list[Check]:
    """A check with a lowest value; [] if the limit is None."""
    return _checks(name, measured, "min", limit, interval, note)


def at_most(name: str, measured: float | None, limit: float | None, interval: Interval = None, note: str = "") -> list[Check]:
    """The same with a highest value."""
    return _checks(name, measured, "max", limit, interval, note)


def too_few(name: str, bound: str, limit: float | None, note: str) -> list[Check]:
    """A check that cannot be judged for lack of data."""
    return [] if limit is None else [Check(name, None, bound, limit, None, note, insufficient_data=True)]


def _checks(name: str, measured: float | None, bound: str, limit: float | None, interval: Interval, note: str) -> list[Check]:
    if limit is None:
        return []
    ends = (float(interval[0]), float(interval[1])) if interval else None
    return [Check(name, None if measured is None else float(measured), bound, limit, ends, note)]
