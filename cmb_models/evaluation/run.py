"""Results of a detector compared with annotations: over the stored scans of a dataset, or as the Python interface gets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from cmb_models.dataset.entries import ScanEntry
from cmb_models.dataset.layout import find_scans, phase_beside, read_phase, require_indexed
from cmb_models.detection import DetectionResult, Detector
from cmb_models.errors import InputError
from cmb_models.evaluation.matching import ScoredScan, voxel_sides_mm
from cmb_models.evaluation.metrics import FrocRow, Intervals, Metrics, count_intervals, counts_of, froc_table, metrics_at
from cmb_models.evaluation.plots import make_froc_figure
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.io.annotations import Annotation
from cmb_models.io.nifti import read_volume, scan_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

BIDS_NAME = re.compile(r"(?:^|_)(sub-[^_]+)(?:_(ses-[^_]+))?$")


def score_scans(detector: Detector, raw_dir: Path, index: Sequence[ScanEntry]) -> list[ScoredScan]:
    """All candidates with their calibrated scores for the index's scans (dataset.index), in its order; [] for an empty index.

    Raises InputError for a file that is not the one the index was made from.
    """
    truth = {s.key: s for d in sorted({e["dataset"] for e in index}) for s in find_scans(raw_dir / d)}
    scored = []
    for entry in track(index, description="evaluate the bundle", console=Console(stderr=True)):  # stdout may be someone's JSON
        scan = truth[entry["key"]]
        require_indexed(scan.path, entry["sha256"])
        if detector.requires_phase and "phase_sha256" in entry:
            require_indexed(phase_beside(scan.path), entry["phase_sha256"])
        volume = read_volume(scan.path)
        phase = read_phase(scan.path) if detector.requires_phase else None
        result = detector.detect(volume, phase, case=str(scan.path))
        scored.append(scored_scan(scan.key, scan.subject_key, scan.annotations, result))
    return scored


def scored_scan(key: str, subject: str, annotations: Sequence[Annotation], result: DetectionResult) -> ScoredScan:
    """A result's candidates with the scan's annotations; without voxel sides if the result does not hold its volume."""
    found = result.candidates
    centres = np.array([c.position_mm for c in found]).reshape(-1, 3)
    if not np.isfinite(centres).all():
        remedy = "evaluate scans whose header says where they lie"
        raise InputError("scan-space", key, "results in scanner millimetres", "voxel indices alone", remedy)
    score, stage1, stage2 = (
        np.array([getattr(c, name) for c in found], dtype=float) for name in ("score", "stage1_score", "stage2_score")
    )
    voxel = None if result.volume is None else voxel_sides_mm(result.volume.spacing_mm)
    return ScoredScan(key, subject, tuple(annotations), centres, score, stage1, stage2, voxel)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results compared with annotations, with 95 % intervals over subjects.

    Attributes:
        threshold: The operating point on the calibrated score.
        tolerance_mm: A detection within the larger of this and the lesion's radius finds the lesion.
        metrics: Figures at the threshold, as metrics.metrics_at describes them: sensitivity, precision, fp_per_scan and others.
        intervals_95: [low, high] of each figure; None where it is not defined.
        froc: One row per standard FP rate: fp_per_scan, sensitivity, threshold, low and high.
    """

    threshold: float
    tolerance_mm: float
    metrics: Metrics
    intervals_95: Intervals
    froc: tuple[FrocRow, ...]
    scans: tuple[ScoredScan, ...] = field(repr=False)
    resamples: int = field(repr=False)
    seed: int = field(repr=False)

    def sensitivity_at(self, fp_per_scan: float) -> tuple[float | None, float, float]:
        """Highest sensitivity at no more than this many FP/scan, with the ends of its 95 % interval.

        Args:
            fp_per_scan: False positives per scan, 0 or more.

        Returns:
            Sensitivity, low and high, each in [0, 1]; sensitivity is None if there are no annotated microbleeds.
        """
        (row,) = froc_table(self.scans, self.tolerance_mm, self._draws, (fp_per_scan,))
        return row["sensitivity"], row["low"], row["high"]

    def to_dataframe(self) -> DataFrame:
        """The FROC table, one row per FP rate. Needs the `analysis` extra."""
        from pandas import DataFrame

        return DataFrame(list(self.froc))

    def plot(self, title: str = "FROC") -> Figure:
        """The FROC curve with its 95 % band and the operating point. Needs the `analysis` extra."""
        return make_froc_figure(self.scans, self.metrics, self.tolerance_mm, title, self._draws)

    @cached_property
    def _draws(self) -> np.ndarray:
        return _resampled(self.scans, self.resamples, self.seed)


def evaluate_results(
    results: Mapping[str, DetectionResult],
    annotations: Sequence[Annotation],
    threshold: float | None,
    tolerance_mm: float,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Results by scan name compared with annotations; arguments and errors as `api.evaluate` describes them."""
    if not results or not isinstance(results, Mapping):
        raise InputError(
            "results-incomplete",
            "evaluate",
            "a result for each scan",
            "none" if not results else type(results).__name__,
            "pass the results by scan name",
        )
    for name, result in results.items():
        if not isinstance(name, str) or not isinstance(result, DetectionResult):
            expected, got = "a DetectionResult by scan name", f"{type(result).__name__} by {type(name).__name__}"
            raise InputError("results-incomplete", f"evaluate {name}", expected, got, "pass what `detect` returns")
    scans = _with_annotations(results, annotations)
    if threshold is None:
        threshold = _common_threshold(results)
    draws, counts = _resampled(scans, resamples, seed), counts_of(scans, threshold, tolerance_mm)
    return Evaluation(
        threshold,
        tolerance_mm,
        metrics_at(scans, threshold, tolerance_mm),
        count_intervals(counts, draws),
        tuple(froc_table(scans, tolerance_mm, draws)),
        scans,
        resamples,
        seed,
    )


def _resampled(scans: Sequence[ScoredScan], resamples: int, seed: int) -> np.ndarray:
    return subject_draws([s.subject for s in scans], resamples, np.random.default_rng(seed))


def _common_threshold(results: Mapping[str, DetectionResult]) -> float:
    thresholds = sorted({r.threshold for r in results.values()})
    if len(thresholds) > 1:
        got = ", ".join(f"{t:g}" for t in thresholds)
        raise InputError(
            "results-mixed", "evaluate", "results with one threshold", got, "use results of one release, or pass a threshold"
        )
    return thresholds[0]


def _with_annotations(results: Mapping[str, DetectionResult], annotations: Sequence[Annotation]) -> tuple[ScoredScan, ...]:
    """The scans in the order of the results. Raises InputError for annotations of other scans, and for two results of one scan."""
    rows: dict[tuple[str, str], list[Annotation]] = {}
    for row in annotations:
        rows.setdefault((row.subject, row.session), []).append(row)
    subjects = {name: _subject_session(name, rows) for name in results}
    if len(set(subjects.values())) < len(subjects):
        raise InputError(
            "results-mixed",
            "evaluate",
            "one result per scan",
            f"several in {', '.join(results)}",
            "pass one of each subject and session",
        )
    strays = sorted("_".join(filter(None, key)) for key in set(rows) - set(subjects.values()))
    if strays:
        remedy = "pass these scans' results too, or drop their annotations"
        raise InputError(
            "results-incomplete", "evaluate", "a result for each annotated scan", f"none for {', '.join(strays)}", remedy
        )
    return tuple(scored_scan(n, subjects[n][0], rows.get(subjects[n], ()), result) for n, result in results.items())


def _subject_session(name: str, known: Mapping[tuple[str, str], Any]) -> tuple[str, str]:
    """Subject and session of a scan by its name; the whole name is the subject where it does not contain sub-*."""
    stem = scan_name(Path(name)).removesuffix("_swi")
    for subject, session in known:
        if stem == "_".join(filter(None, (subject, session))):
            return subject, session
    bids = BIDS_NAME.search(stem)
    return (bids[1], bids[2] or "") if bids else (stem, "")
