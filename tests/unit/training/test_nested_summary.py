"""The figures of a nested cross-validation by hand: each fold at its own threshold, chosen elsewhere."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import Fusion, load_params
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.evaluation.rows import write_rows
from cmb_models.io.annotations import Annotation
from cmb_models.training.validation.nested_summary import (
    NESTED,
    OuterFold,
    decide_inside,
    nested_metrics,
    recomputed_nested,
    write_nested_rows,
)
from tests.support.imports import ROOT
from tests.support.refused import refused

PARAMS = load_params(ROOT / "params.yaml")
PARAMS = PARAMS.model_copy(update={"calibrate": PARAMS.calibrate.model_copy(update={"max_fp_per_scan": 0.5})})
TUNED = {"settings": {"dropout": 0.1}, "study": "s", "trial": 3, "trials": ["many"]}


def scan(subject, hit, false) -> ScoredScan:
    """A scan with one CMB at the origin, found with score `hit`, and a false positive far off with score `false`."""
    lesion = Annotation(subject, "", 0.0, 0.0, 0.0, 3.0, "cmb", "r")
    return ScoredScan(subject, subject, (lesion,), np.array([[0.0, 0, 0], [50, 0, 0]]), np.array([hit, false]))


def fold(number, inner, outer) -> OuterFold:
    return OuterFold(number, tuple(inner), tuple(outer), {"unet": TUNED, "cnn": TUNED})


# Inside fold 0, .8 finds both at no false positive: halfway down to .5. Inside fold 1 it is .3, halfway down to .1.
FOLDS = [
    fold(0, [scan("b", 0.9, 0.5), scan("c", 0.8, 0.4)], [scan("a", 0.7, 0.6)]),
    fold(1, [scan("a", 0.3, 0.1), scan("c", 0.6, 0.1)], [scan("b", 0.1, 0.3)]),
]


def test_each_fold_is_judged_at_the_threshold_chosen_inside_it():
    metrics, decided = nested_metrics(FOLDS, PARAMS, np.random.default_rng(0))
    assert [d.decision.threshold for d in decided] == pytest.approx([0.65, 0.2])
    assert (metrics["hits"], metrics["false_positives"], metrics["n_lesions"], metrics["n_scans"]) == (1, 1, 2, 2)
    assert metrics["sensitivity"] == 0.5 and metrics["fp_per_scan"] == 0.5
    low, high = metrics["intervals_95"]["sensitivity"]
    assert low < 0.5 < high
    assert [f["hits"] for f in metrics["folds"]] == [1, 0]
    assert metrics["folds"][0]["chosen"]["unet"] == {"settings": {"dropout": 0.1}, "study": "s", "trial": 3}


def test_figures_come_back_from_the_rows_alone(tmp_path):
    metrics, decided = nested_metrics(FOLDS, PARAMS, np.random.default_rng(PARAMS.evaluate.seed))
    plain = [replace(s, scores=s.scores / 2) for f in FOLDS for s in f.outer]  # their truth counts, not what was found in them
    write_rows(tmp_path, plain, 0.5, 3.0, Fusion(), {"a": 0, "b": 1})
    write_nested_rows(tmp_path / NESTED, decided, 3.0)
    del metrics["folds"]
    assert recomputed_nested(tmp_path, PARAMS) == metrics
    assert metrics["froc"][0]["low"] < metrics["froc"][0]["high"] and "sensitivity_at_0.6_fp" in metrics["intervals_95"]
    write_nested_rows(tmp_path / NESTED, [], 3.0)
    assert recomputed_nested(tmp_path, PARAMS) is None
    write_nested_rows(tmp_path / NESTED, decided[:1], 3.0)
    with refused("rows-invalid"):
        recomputed_nested(tmp_path, PARAMS)
    (tmp_path / NESTED).unlink()
    with refused("file-not-found"):
        recomputed_nested(tmp_path, PARAMS)


def test_scores_are_calibrated_by_the_inner_ones_alone():
    inner = [scan(f"i{n}", 0.6, 0.4) for n in range(10)]
    decided = decide_inside(fold(0, inner, [scan("a", 0.6, 0.4)]), PARAMS)
    # Ten of ten at .6 are hits and none at .4: Platt's targets are 11/12 and 1/12.
    assert decided.scans[0].scores == pytest.approx([11 / 12, 1 / 12], abs=1e-4)
    assert decided.scans[0].scores[1] < decided.decision.threshold < decided.scans[0].scores[0]
    swapped = [scan(f"i{n}", 0.6, 0.4) for n in range(10)]
    assert decide_inside(fold(0, swapped, [scan("a", 0.1, 0.9)]), PARAMS).decision == decided.decision


def test_a_fold_whose_own_scores_took_part_is_refused():
    with refused("leakage"):
        decide_inside(fold(0, [scan("a", 0.9, 0.5), scan("b", 0.8, 0.4)], [scan("a", 0.7, 0.6)]), PARAMS)


def test_rows_hold_fold_and_threshold_and_are_a_header_alone_without_folds(tmp_path):
    _, decided = nested_metrics(FOLDS, PARAMS, np.random.default_rng(0))
    write_nested_rows(tmp_path / "n.csv", decided, 3.0)
    with (tmp_path / "n.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["fold"], r["subject"], r["outcome"], r["at_threshold"]) for r in rows] == [
        ("0", "a", "hit", "hit"),
        ("0", "a", "false_positive", ""),
        ("1", "b", "hit", ""),
        ("1", "b", "false_positive", "false_positive"),
    ]
    assert float(rows[0]["threshold"]) == pytest.approx(0.65)
    write_nested_rows(tmp_path / "none.csv", [], 3.0)
    assert (tmp_path / "none.csv").read_text().count("\n") == 1
