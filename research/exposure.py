"""Research evaluates on the full demo's held-out scans, too: each evaluation is an entry of the project's own exposure log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmb_models.evaluation.exposure_log import count_evaluation, exposure_summary, locked_scans
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.metrics import metrics_at
from cmb_models.release.bundle import BundleDetector
from cmb_models.workspace.versioning import head_commit
from research.stages import ROOT

EXPOSURE_LOG = ROOT / "research/locked_evaluations.jsonl"  # kept by git


def log_evaluation(
    detector: BundleDetector, index: Sequence[Mapping[str, Any]], scans: Sequence[ScoredScan], tolerance_mm: float
) -> str:
    """Log that a release was evaluated on these scans; returns how often they have been evaluated by now, in a sentence.

    index: entries of the scans in data/index.json. Raises InputError for no scans or a broken log; call exposure_log.require_whole
    before the scans are read.
    """
    figures = metrics_at(scans, detector.bundle.config.decision.threshold, tolerance_mm)
    entry = count_evaluation(EXPOSURE_LOG, detector.bundle.manifest_sha256, locked_scans(index), head_commit(ROOT), figures)
    return exposure_summary(entry)
