"""Collect the figures of a finished demo into one JSON file, which is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cmb_models.config.params import Evaluate, load_params
from cmb_models.evaluation.metrics import froc_table
from cmb_models.evaluation.plots import BAND_FP
from cmb_models.evaluation.rows import read_rows
from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.files import read_json

COUNTS = ("n_scans", "n_lesions", "hits", "false_positives", "n_cmb_free_scans")
RATES = ("sensitivity", "fp_per_scan", "precision", "f1", "fp_per_cmb_free_scan")


def collect(workspace: Path) -> dict[str, Any]:
    """The figures of a workspace's evaluations.

    Args:
        workspace: A workspace whose stages have run.

    Returns:
        For `out_of_fold` and `held_out`: counts, rates, 95 % intervals over subjects, a FROC curve with its band and the results by
        lesion size. For `cross_fitted` and, where it was computed, `nested`: counts, rates and intervals.
    """
    settings = load_params(workspace / "params.yaml").evaluate
    out_of_fold, held_out = (read_json(workspace / f"reports/{stage}/metrics.json") for stage in ("cross_validate", "evaluate"))
    figures = {
        "out_of_fold": _figures(out_of_fold) | _details(out_of_fold, workspace / "reports/cross_validate", settings),
        "cross_fitted": _figures(out_of_fold["cross_fitted"]),
        "held_out": _figures(held_out) | _details(held_out, workspace / "reports/evaluate", settings),
    }
    if "nested" in out_of_fold:
        figures["nested"] = _figures(out_of_fold["nested"])
    return figures


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    intervals = {rate: metrics["intervals_95"][rate] for rate in RATES}
    return {key: metrics[key] for key in (*COUNTS, *RATES)} | {"intervals_95": intervals}


def _details(metrics: dict[str, Any], rows: Path, settings: Evaluate) -> dict[str, Any]:
    scans = read_rows(rows).scans
    draws = subject_draws([scan.subject for scan in scans], settings.bootstrap, np.random.default_rng(settings.seed))
    # Without 0, which a logarithmic axis cannot show.
    keys = ("fp_per_scan", "sensitivity", "low", "high")
    curve = [{key: round(row[key], 4) for key in keys} for row in froc_table(scans, settings.tolerance_mm, draws, BAND_FP[1:])]
    sizes = [{key: row[key] for key in ("name", "hits", "n_lesions", "interval_95")} for row in metrics["strata"]["size"]]
    return {"curve": curve, "size": sizes}
