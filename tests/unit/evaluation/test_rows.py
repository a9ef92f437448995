"""The rows of an evaluation: what became of each lesion and why, and nothing lost on the way to disk and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.config.params import Decision, Fusion
from cmb_models.evaluation import rows
from cmb_models.evaluation.matching import all_judged
from cmb_models.evaluation.rows import detection_rows, lesion_rows, read_rows, scan_rows, write_rows
from tests.support.refused import refused
from tests.unit.evaluation.test_matching import lesion, scan


def staged(lesions, found):
    """found: (x, stage 1, stage 2) on the x axis; the score is their geometric mean."""
    stage1, stage2 = (np.array([f[n] for f in found], dtype=float) for n in (1, 2))
    scored = scan(lesions, [(x, s) for (x, _, _), s in zip(found, np.sqrt(stage1 * stage2), strict=True)])
    return replace(scored, stage1=stage1, stage2=stage2, voxel_mm=(0.8, 0.8, 3.0))


REASONS = {
    # name: (lesions, candidates, what becomes of each lesion at a threshold of .5)
    "found": ([lesion(0)], [(1, 0.9, 0.9)], [""]),
    "no candidate": ([lesion(0)], [(3.1, 0.9, 0.9)], [rows.NO_CANDIDATE]),
    "no candidates at all": ([lesion(0)], [], [rows.NO_CANDIDATE]),
    "one candidate for two": ([lesion(0), lesion(4)], [(1, 0.9, 0.9)], ["", rows.NEIGHBOURS]),
    "stage 2 doubts": ([lesion(0)], [(0, 0.9, 0.1)], [rows.DOUBT_2]),
    "stage 1 doubts": ([lesion(0)], [(0, 0.1, 0.9)], [rows.DOUBT_1]),
    # With all counting, each lesion has a candidate; above the threshold the one at 2.5 alone, which is nearer to the first.
    "its candidate is needed by the neighbour": ([lesion(2), lesion(5)], [(0, 0.1, 0.1), (2.5, 0.9, 0.9)], ["", rows.TAKEN]),
}


@pytest.mark.parametrize("name", REASONS)
def test_every_missed_lesion_has_its_reason(name):
    lesions, found, expected = REASONS[name]
    made = lesion_rows([staged(lesions, found)], 0.5, 3.0, Fusion())
    assert [r["rejected"] for r in made] == expected
    assert [r["hit"] for r in made] == [int(not reason) for reason in expected]


@pytest.mark.parametrize(("weight", "reason"), [(0.5, rows.DOUBT_2), (1 / 3, rows.DOUBT_1), (0.0, rows.DOUBT_1)])
@pytest.mark.parametrize("mean", ["geometric", "log_odds"])
def test_the_stage_that_lowers_the_joint_score_more_is_named(mean, weight, reason):
    """.335 and .274 at a weight of a third: the first takes .73 off the logarithm, the second .43; .46 and .32 off the log odds."""
    made = lesion_rows([staged([lesion(0)], [(0, 0.335, 0.274)])], 0.5, 3.0, Fusion(stage2_weight=weight, joint_mean=mean))
    assert [r["rejected"] for r in made] == [reason]


@pytest.mark.parametrize("mean", ["geometric", "log_odds"])
def test_a_stage_above_the_threshold_or_without_weight_is_never_named(mean):
    """At .7 (.6, .75) lacks by stage 1 alone; where stage 2 has no weight its .01 does not matter."""
    for stage2, weight in ((0.75, 0.3), (0.01, 0.0)):
        joint = Fusion(stage2_weight=weight, joint_mean=mean)
        found = replace(staged([lesion(0)], [(0, 0.6, stage2)]), scores=np.array([0.65]))
        assert lesion_rows([found], 0.7, 3.0, joint)[0]["rejected"] == rows.DOUBT_1


def test_where_scores_are_calibrated_the_threshold_before_it_counts():
    """Calibrated .5 is .9 before: from there stage 1 lacks 1.5 in log odds, weighted .75, stage 2 2.2, weighted 1.1."""
    decision = Decision(slope=2, intercept=-2 * np.log(9), threshold=0.5, joint_mean="log_odds")
    found = replace(staged([lesion(0)], [(0, 2 / 3, 0.5)]), scores=np.array([0.1]))
    assert lesion_rows([found], 0.5, 3.0, decision)[0]["rejected"] == rows.DOUBT_2
    surer = replace(staged([lesion(0)], [(0, 2 / 3, 0.8)]), scores=np.array([0.2]))
    assert lesion_rows([surer], 0.5, 3.0, decision)[0]["rejected"] == rows.DOUBT_1


def test_lesions_carry_their_scores_place_and_scan():
    row = lesion_rows([staged([lesion(5, diameter=4.0)], [(5, 0.9, 0.4)])], 0.5, 3.0, Fusion())[0]
    assert (row["lesion"], row["label"], row["x_mm"], row["diameter_mm"], row["slice_mm"]) == (0, "cmb", "5.0", "4.0", 3.0)
    assert (row["stage1_score"], row["stage2_score"], float(row["score"])) == ("0.9", "0.4", pytest.approx(0.6))


def test_a_possible_place_is_neither_hit_nor_missed():
    made = lesion_rows([staged([lesion(0, "possible"), lesion(20), lesion(40, "mimic:vein")], [(0, 0.9, 0.9)])], 0.5, 3.0, Fusion())
    assert [(r["label"], r["lesion"], r["hit"], r["rejected"]) for r in made] == [
        ("possible", -1, "", ""),
        ("cmb", 0, 0, rows.NO_CANDIDATE),
    ]


def test_every_candidate_has_a_row():
    found = [(0, 0.9, 0.9), (41, 0.3, 0.3), (80, 0.8, 0.8)]
    made = detection_rows([staged([lesion(0), lesion(40, "mimic:vein"), lesion(80, "possible")], found)], 0.5, 3.0)
    assert [(r["outcome"], r["at_threshold"], r["label"], r["lesion"]) for r in made] == [
        ("hit", "hit", "cmb", 0),
        ("false_positive", "", "mimic:vein", -1),
        ("ignored", "ignored", "possible", -1),
    ]


def test_a_scan_without_anything_has_its_row():
    made = scan_rows([scan([], [])], 0.5, 3.0)[0]
    assert (made["n_cmbs"], made["n_candidates"], made["hits"], made["false_positives"], made["fold"]) == (0, 0, 0, 0, "")


def test_round_trip(tmp_path):
    marked = [lesion(1 / 3), lesion(20, "possible"), lesion(60, "mimic:vein")]
    first = replace(staged(marked, [(0.1, 0.7, 0.2), (61, 0.5, 0.5)]), key="a_sub-1_ses-02", subject="a_sub-1")
    first = replace(first, annotations=tuple(replace(a, session="ses-02", region="left, deep") for a in first.annotations))
    second = replace(scan([], []), key="a_sub-2", subject="a_sub-2")
    third = replace(scan([lesion(0)], [(0, 0.25)]), key="b_sub-1", subject="b_sub-1")
    write_rows(tmp_path, [first, second, third], 1 / 7, 3.0, Fusion(), {"a_sub-1": 0, "a_sub-2": 1, "b_sub-1": 0})
    saved = read_rows(tmp_path)
    assert (saved.threshold, saved.folds) == (1 / 7, {"a_sub-1": 0, "a_sub-2": 1, "b_sub-1": 0})
    assert [s.key for s in saved.scans] == ["a_sub-1_ses-02", "a_sub-2", "b_sub-1"]
    assert saved.scans[0].annotations == first.annotations[:2]  # all but the mimic, which no figure depends on
    for before, after in zip((first, third), (saved.scans[0], saved.scans[2]), strict=True):
        np.testing.assert_array_equal(after.centres_mm, before.centres_mm)
        np.testing.assert_array_equal(after.scores, before.scores)
    assert saved.scans[0].voxel_mm == (0.8, 0.8, 3.0) and saved.scans[0].stage2.tolist() == [0.2, 0.5]
    assert saved.scans[2].stage1 is None and saved.scans[2].voxel_mm is None
    scores, hit = all_judged(saved.scans, 3.0)
    assert scores.tolist() == [*first.scores, 0.25] and hit.tolist() == [True, False, True]


def test_rows_that_are_not_there_or_of_another_make(tmp_path):
    with refused("file-not-found"):
        read_rows(tmp_path)
    write_rows(tmp_path, [scan([], [])], 0.5, 3.0, Fusion())
    with refused("candidates-missing"):
        all_judged(read_rows(tmp_path).scans, 3.0)
    (tmp_path / rows.LESIONS).write_text("scan,x_mm\n")
    with refused("rows-invalid"):
        read_rows(tmp_path)
