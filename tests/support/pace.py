"""How fast this machine answers one scan: deadlines of tests follow it, so that none depends on a fast machine."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from pathlib import Path

from cmb_models.release.bundle import BundleDetector
from tests.support.bundles import head, make_bundle

MOST = 4.0
ANSWER_S = 0.1  # one answer of a hand-made bundle in this process, on a machine of two cores that does other work as well


def seconds(usual: float) -> float:
    """A deadline for this machine. usual: the one for a machine that answers in ANSWER_S; none is ever shorter, nor MOST times as
    long, which pytest's own timeout would cut off."""
    return usual * min(MOST, max(1.0, _answer_s() / ANSWER_S))


@functools.cache
def _answer_s() -> float:
    with tempfile.TemporaryDirectory() as folder:
        detector, scan = BundleDetector(make_bundle(Path(folder) / "bundle")), head()
        seconds = []
        for name in ("first", "second", "third", "fourth"):
            began = time.perf_counter()
            detector.detect(scan, case=name)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
