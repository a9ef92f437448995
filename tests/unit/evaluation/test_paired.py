"""Two releases on the same scans: differences by hand, their intervals against another computation, and where they disagree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.evaluation.statistics.bootstrap import subject_draws
from cmb_models.evaluation.statistics.disagreement import disagreements
from cmb_models.evaluation.statistics.paired import Judged, difference_at_fp, differences, pair_up
from tests.support.scored import TOLERANCE_MM, hashes, scored


def pair_of(first, second, thresholds=(0.5, 0.5)):
    return pair_up(*(Judged(tuple(s), t, hashes(s)) for s, t in zip((first, second), thresholds, strict=True)))


def draws_of(pair, resamples=200, seed=0):
    return subject_draws(pair.subjects, resamples, np.random.default_rng(seed))


def test_the_same_release_differs_by_nothing_for_certain():
    scans = [scored(f"a_sub-{n}", [0.9, 0.1], [0.8] * (n % 3)) for n in range(6)]
    pair = pair_of(scans, scans)
    draws = draws_of(pair)
    found = [*differences(pair, TOLERANCE_MM, draws).values(), difference_at_fp(pair, TOLERANCE_MM, 0.5, draws)]
    assert [(d.difference, d.interval) for d in found if d.name != "fp_per_cmb_free_scan"] == [(0.0, [0.0, 0.0])] * 4
    assert disagreements(pair, TOLERANCE_MM) == []


def test_a_release_that_is_worse_in_every_scan_is_worse_for_certain():
    """Of two microbleeds a scan the second finds one less, with one false positive more: by 1/2 and 1 in every resample."""
    better = [scored(f"a_sub-{n}", [0.9, 0.9]) for n in range(5)]
    worse = [scored(f"a_sub-{n}", [0.9, 0.1], [0.9]) for n in range(5)]
    pair = pair_of(better, worse)
    found = differences(pair, TOLERANCE_MM, draws_of(pair))
    assert (found["sensitivity"].difference, found["sensitivity"].interval) == (-0.5, [-0.5, -0.5])
    assert (found["fp_per_scan"].difference, found["fp_per_scan"].interval) == (1.0, [1.0, 1.0])
    assert found["precision"].difference == pytest.approx(-0.5)
    assert (found["sensitivity"].first, found["sensitivity"].second) == (1.0, 0.5)


def test_each_is_counted_at_its_own_threshold_and_on_its_own_curve():
    first, second = ([scored(f"a_sub-{n}", [s, s], [s / 2]) for n in range(3)] for s in (0.9, 0.4))
    at_own = differences(pair_of(first, second, (0.5, 0.3)), TOLERANCE_MM, draws_of(pair_of(first, second)))
    assert at_own["sensitivity"].difference == at_own["fp_per_scan"].difference == 0.0
    at_one = pair_of(first, second)
    assert differences(at_one, TOLERANCE_MM, draws_of(at_one))["sensitivity"].difference == -1.0
    # The curve needs no threshold: both find all before their first false positive.
    assert difference_at_fp(at_one, TOLERANCE_MM, 0.5, draws_of(at_one)).difference == 0.0


def test_intervals_agree_with_resampling_done_by_hand():
    """The same subjects drawn by another generator, scans put together one by one: ends agree within the resampling's noise."""
    rng = np.random.default_rng(5)
    keys = [f"a_sub-{n}_ses-{m}" for n in range(15) for m in range(1 + n % 2)]
    lesions = {k: int(rng.integers(0, 5)) for k in keys}
    made = [[scored(k, rng.uniform(0.2, 1, lesions[k]), rng.uniform(0, 0.8, rng.integers(0, 3))) for k in keys] for _ in range(2)]
    pair = pair_of(*made)
    found = differences(pair, TOLERANCE_MM, draws_of(pair, 4000))
    by_subject: dict[str, list] = {}
    for a, b in zip(*made, strict=True):
        n = len(a.cmbs)
        row = [n, *(int((s.scores[:n] >= 0.5).sum()) for s in (a, b)), *(int((s.scores[n:] >= 0.5).sum()) for s in (a, b))]
        by_subject.setdefault(a.subject, []).append(row)
    groups, values = list(by_subject.values()), []
    for _ in range(4000):
        rows = [row for g in rng.choice(len(groups), len(groups)) for row in groups[g]]
        n, hits_a, hits_b, false_a, false_b = np.sum(rows, axis=0)
        values.append(((hits_b - hits_a) / n, (false_b - false_a) / len(rows)))
    for name, column in zip(("sensitivity", "fp_per_scan"), np.transpose(values), strict=True):
        assert found[name].interval == pytest.approx(np.percentile(column, [2.5, 97.5]).tolist(), abs=0.03)
        assert found[name].interval[0] < found[name].difference < found[name].interval[1]


def test_scans_are_the_same_by_content_not_by_name():
    first = [scored("a_sub-1", [0.9]), scored("a_sub-2", [0.9]), scored("a_sub-3", [0.9])]
    second = [scored("b_sub-9", [0.1]), scored("a_sub-2", [0.9]), scored("a_sub-4", [0.9])]
    known = {"b_sub-9": hashes(first)["a_sub-1"], "a_sub-2": "another file under the old name"}
    pair = pair_up(Judged(tuple(first), 0.5, hashes(first)), Judged(tuple(second), 0.5, known))
    assert [(a.key, b.key) for a, b in zip(pair.first, pair.second, strict=True)] == [("b_sub-9", "b_sub-9")]
    assert pair.subjects == ["b_sub-9"] and pair.remarked == ()
    assert pair_up(Judged(tuple(first), 0.5, {}), Judged(tuple(second), 0.5, known)).second == ()


def test_both_are_held_against_the_second_ones_marks():
    first = [scored("a_sub-1", [0.9, 0.9])]
    second = [replace(first[0], annotations=first[0].annotations[:1])]  # one mark was taken back since
    pair = pair_of(first, second)
    found = differences(pair, TOLERANCE_MM, draws_of(pair))
    assert pair.remarked == ("a_sub-1",)
    assert (found["sensitivity"].first, found["fp_per_scan"].first, found["fp_per_scan"].difference) == (1.0, 1.0, 0.0)


def test_what_nothing_defines_is_none():
    scans = [scored(f"a_sub-{n}", []) for n in range(3)]
    pair = pair_of(scans, scans)
    found = differences(pair, TOLERANCE_MM, draws_of(pair))
    assert [found[n].difference for n in ("sensitivity", "precision")] == [None, None]
    assert found["fp_per_scan"].difference == 0.0
    assert difference_at_fp(pair, TOLERANCE_MM, 0.5, draws_of(pair)).interval is None
    none = pair_of([], [])
    assert differences(none, TOLERANCE_MM, draws_of(none))["fp_per_scan"].difference is None


def test_disagreements_by_hand():
    """The first alone finds microbleed 0, the second alone 1, both 2, none 3; of false positives at 0 and 20 mm both raise the
    first (1 mm apart), the first alone the second, which the second scored below its threshold."""
    first = scored("a_sub-1", [0.9, 0.3, 0.8, 0.1], [0.7, 0.6])
    second = scored("a_sub-1", [0.2, 0.7, 0.8, 0.1], [0.7, 0.4])
    second = replace(second, centres_mm=second.centres_mm + np.array([1.0, 0, 0]))
    found = disagreements(pair_of([first], [second]), TOLERANCE_MM)
    report = [(d.kind, d.by, d.world_mm[:2], d.first.score, d.second.score) for d in found]
    assert report == [
        ("hit", 1, (0.0, 0.0), 0.9, 0.2),
        ("hit", 2, (20.0, 0.0), 0.3, 0.7),
        ("false_positive", 1, (20.0, 50.0), 0.6, 0.4),
    ]
    assert [d.about.diameter_mm if d.about else None for d in found] == [4.0, 4.0, None]


def test_a_place_where_the_other_has_no_candidate_says_so():
    (lesion, false) = disagreements(pair_of([scored("a_sub-1", [0.9], [0.9])], [bare(scored("a_sub-1", [0.9]))]), TOLERANCE_MM)
    assert (lesion.kind, lesion.by, lesion.second) == ("hit", 1, None)
    assert (false.kind, false.by, false.first.score, false.second) == ("false_positive", 1, 0.9, None)


def bare(scan):
    return replace(scan, centres_mm=np.zeros((0, 3)), scores=np.zeros(0), stage1=np.zeros(0), stage2=np.zeros(0))


def test_two_false_positives_are_one_place_at_most_once():
    one = scored("a_sub-1", [], [0.9])
    two = scored("a_sub-1", [], [0.9, 0.8])
    two = replace(two, centres_mm=np.array([[0.0, 49.0, 0.0], [0.0, 51.5, 0.0]]))  # both within 3 mm of the first one's
    (extra,) = disagreements(pair_of([one], [two]), TOLERANCE_MM)
    assert (extra.by, extra.world_mm[1]) == (2, 51.5)  # the farther one is the extra
