"""The data of a comparison of two releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.statistics.disagreement import Disagreement
from cmb_models.evaluation.statistics.paired import Difference


@dataclass(frozen=True)
class Side:
    """One release. name: such as "release 3"; about: its roles; scans: its evaluation on the scans shown."""

    name: str
    about: str
    manifest_sha256: str
    scans: tuple[ScoredScan, ...]
    threshold: float | None


@dataclass(frozen=True)
class Comparison:
    """Two releases and their differences; `second` is compared with the baseline `first`.

    common: both sides' scans are the same, in the same order. differences: of figures, by name; their `difference` is None if
    scans are not common. draws: (B, S), resamples of the second's subjects, (B, 0) if scans are not common. labels: the
    annotation's label at a false positive, by scan and place. images: path of a scan's SWI by key, if available.
    checks: the gate's, from GateReport.as_dict(). notes: caveats.
    """

    first: Side
    second: Side
    common: bool
    differences: Mapping[str, Difference]
    disagreements: Sequence[Disagreement]
    draws: np.ndarray
    tolerance_mm: float
    fp_per_scan: float
    checks: Sequence[Mapping]
    passed: bool
    notes: Sequence[str]
    images: Mapping[str, Path] = field(default_factory=dict)
    labels: Mapping[tuple, str] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.first, self.second
