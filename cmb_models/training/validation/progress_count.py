"""Where a training reports each finished step: to whatever runs it, a local pool or a scheduler's worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_report: Callable[[], None] | None = None


def report_to(report: Callable[[], None] | None) -> None:
    """From now on call `report` for each step in this process; None: nothing."""
    global _report
    _report = report


@contextmanager
def counting(report: Callable[[], None]) -> Iterator[None]:
    """Call `report` for each step while in the context."""
    report_to(report)
    try:
        yield
    finally:
        report_to(None)


def count_step(_step: int) -> None:
    """Report one finished training step; does nothing where nobody follows."""
    if _report is not None:
        _report()
