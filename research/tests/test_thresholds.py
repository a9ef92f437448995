"""Thresholds for scans of another kind, on candidates made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.evaluation.froc import froc
from cmb_models.evaluation.matching import ScoredScan
from cmb_models.io.annotations import Annotation
from research.thresholds import compare, reference_level, scaled_threshold
from scripts.results.blocks import threshold_table


def scans(count, false_per_scan, seed=0):
    """A microbleed of any score in each scan, and false positives most of which have low scores."""
    rng, made = np.random.default_rng(seed), []
    for n in range(count):
        scores = np.r_[rng.random(), 0.9 * np.exp(-4 * rng.random(false_per_scan))]
        places = np.r_[[[0.0, 0.0, 0.0]], 100 + 50 * np.arange(false_per_scan)[:, None] * np.ones(3)]
        mark = Annotation(f"s{n}", "", 0.0, 0.0, 0.0, 3.0, "cmb", "r")
        made.append(ScoredScan(f"s{n}", f"s{n}", (mark,), places, scores))
    return made


def test_the_reference_level_is_the_score_of_so_many_candidates():
    scores = np.sort(np.concatenate([s.scores for s in scans(5, 20)]))
    assert reference_level(scans(5, 20), 2.0) == scores[-10]
    assert reference_level(scans(5, 2), 8.0) == min(s.scores.min() for s in scans(5, 2))
    assert reference_level([]) == 1.0


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_scans_with_so_many_more_false_positives_reach_the_rate_that_was_chosen(factor):
    """Twenty candidates per scan out of fold, `factor` times as many at the new site."""
    source, other = scans(200, 20), scans(200, round(20 * factor), seed=1)
    fixed, scaled = (r for r in compare(source, other, 3.0) if r["chosen"] == 1.0)
    assert fixed["fp_per_scan"] == pytest.approx(factor, rel=0.25)
    assert scaled["fp_per_scan"] == pytest.approx(1.0, rel=0.25)
    assert scaled["interval_95"][0] < scaled["fp_per_scan"] < scaled["interval_95"][1]
    assert factor == 1 or (fixed["sensitivity"] > scaled["sensitivity"]) == (factor > 1)


def test_labels_of_the_new_scans_are_not_read():
    source, other = scans(50, 20), scans(50, 40, seed=1)
    bare = [ScoredScan(s.key, s.subject, (), s.centres_mm, s.scores) for s in other]
    curve = froc(source, 3.0)
    assert scaled_threshold(curve, source, other, 1.0) == scaled_threshold(curve, source, bare, 1.0)


def test_the_table_has_a_row_for_each_rate():
    lines = threshold_table({"new": compare(scans(20, 10), scans(20, 10, seed=1), 3.0)}).splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
