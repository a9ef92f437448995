"""The figures that `make results --demo` collects from a finished workspace, of two scans counted by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmb_models.config.params import Fusion
from cmb_models.evaluation.rows import write_rows
from cmb_models.files import write_json
from scripts.results.collect import COUNTS, RATES, collect
from tests.support.imports import ROOT
from tests.support.scored import TOLERANCE_MM, scored

# At thresholds above 0.4 two of three microbleeds without a false positive, at 0.2 all three with one in two scans.
SCANS = [scored("site_sub-1", [0.9, 0.2], [0.4]), scored("site_sub-2", [0.8])]
SIZE = {"name": "3 to below 5 mm", "hits": 2, "n_lesions": 3, "interval_95": [0.2, 0.9]}


def part(hits: int) -> dict:
    """Figures of one evaluation, each another number, among some that are not collected."""
    counts = dict(zip(COUNTS, (2, 3, hits, 1, 0), strict=True))
    rates = {name: (n + hits) / 10 for n, name in enumerate(RATES)}
    return {**counts, **rates, "ece": 0.1, "intervals_95": {**{name: [0.0, 1.0] for name in RATES}, "ece": [0.0, 0.2]}}


@pytest.fixture
def workspace(tmp_path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    strata = {"strata": {"size": [{**SIZE, "n_scans": 2}]}}
    for stage, metrics in (("cross_validate", {**part(2), "cross_fitted": part(1)}), ("evaluate", part(3))):
        write_rows(tmp_path / "reports" / stage, SCANS, 0.5, TOLERANCE_MM, Fusion())
        write_json(tmp_path / "reports" / stage / "metrics.json", metrics | strata)
    return tmp_path


def test_counts_rates_and_intervals_are_copied(workspace):
    figures = collect(workspace)
    assert list(figures) == ["out_of_fold", "cross_fitted", "held_out"]
    for name, hits in (("out_of_fold", 2), ("cross_fitted", 1), ("held_out", 3)):
        expected = part(hits)
        del expected["ece"], expected["intervals_95"]["ece"]
        assert {key: figures[name][key] for key in expected} == expected
        assert set(figures[name]) - set(expected) == (set() if name == "cross_fitted" else {"curve", "size"})
    assert figures["held_out"]["size"] == [SIZE]


def test_the_curve_is_computed_from_the_rows(workspace):
    curve = collect(workspace)["held_out"]["curve"]
    rates = [row["fp_per_scan"] for row in curve]
    assert (rates[0], rates[-1]) == (1 / 16, 8) and rates == sorted(set(rates))
    sensitivity = {row["fp_per_scan"]: row["sensitivity"] for row in curve}
    assert {sensitivity[rate] for rate in rates if rate < 0.49} == {0.6667}
    assert {sensitivity[rate] for rate in rates if rate > 0.51} == {1.0}
    assert all(0 <= row["low"] <= row["sensitivity"] <= row["high"] <= 1 for row in curve)


def test_nested_figures_are_collected_where_they_were_computed(workspace):
    write_json(
        workspace / "reports/cross_validate/metrics.json",
        part(2) | {"cross_fitted": part(1), "nested": part(3), "strata": {"size": []}},
    )
    figures = collect(workspace)
    assert figures["nested"]["hits"] == 3 and "curve" not in figures["nested"]
