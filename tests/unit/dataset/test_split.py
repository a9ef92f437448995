from __future__ import annotations

import re

import pytest

from cmb_models.config.params import Split
from cmb_models.dataset.split import split_subjects
from tests.support.refused import refused


def scans(counts, dataset="site", sessions=1):
    names = [f"{dataset}_sub-{n:02d}" for n in range(len(counts))]
    rows = [(s, c, n) for s, c in zip(names, counts, strict=True) for n in range(sessions)]
    return [{"key": f"{s}_{n}", "dataset": dataset, "subject": s, "sha256": f"of {s} {n}", "n_cmbs": c} for s, c, n in rows]


def settings(folds=3, locked=("locked",), fraction=0.0):
    return Split(folds=folds, seed=0, locked_datasets=locked, locked_fraction=fraction)


SITE = scans([9, 5, 4, 3, 2, 1, 1, 0, 0])
LOCKED = scans([2, 0], "locked")


def test_folds_share_the_cmbs_and_the_locked_dataset_is_apart():
    split = split_subjects(SITE + LOCKED, settings(), 3)
    assert split["locked"] == ["locked_sub-00", "locked_sub-01"]
    load = [sum(s["n_cmbs"] for s in SITE if split["folds"][s["subject"]] == f) for f in range(3)]
    assert sum(load) == 25 and max(load) - min(load) <= 2
    assert set(split["folds"].values()) == {0, 1, 2}


def test_all_sessions_of_a_subject_stay_together():
    split = split_subjects(scans([3, 2, 1, 1], sessions=3) + LOCKED, settings(folds=2), 3)
    assert set(split["folds"]) == {f"site_sub-0{n}" for n in range(4)}


def test_a_fraction_is_locked_and_the_seed_decides_which():
    split = split_subjects(SITE, settings(locked=(), fraction=0.34), 3)
    assert len(split["locked"]) == 3 and not set(split["locked"]) & set(split["folds"])
    assert split == split_subjects(list(reversed(SITE)), settings(locked=(), fraction=0.34), 3)


@pytest.mark.parametrize(
    ("data", "chosen", "code", "case", "got"),
    [
        (SITE + LOCKED, settings(folds=20), "training-too-few", "split.folds", "20"),
        (SITE, settings(locked=()), "locked-set-empty", "", "none"),
        (SITE, settings(locked=("other",)), "split-unknown-dataset", "split.locked_datasets", "other"),
        (scans([5, 4, 0, 0]) + LOCKED, settings(folds=3), "training-too-few", "subjects", "2 of 4"),
        (scans([5, 0, 0, 0]) + LOCKED, settings(folds=2), "training-too-few", "subjects", "in one"),
        (scans([0, 0, 0, 0]) + LOCKED, settings(folds=2), "training-too-few", "subjects", "none"),
        (scans([5]) + LOCKED, settings(folds=2), "training-too-few", "data", "1"),
    ],
)
def test_impossible_splits_are_refused(data, chosen, code, case, got):
    with refused(code, case=case, got=got):
        split_subjects(data, chosen, 3)


def test_a_single_subject_is_told_that_nothing_can_be_cross_validated():
    for sessions in (1, 4):
        with refused("training-too-few"):
            split_subjects(scans([5], sessions=sessions) + LOCKED, settings(folds=2), 1)


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (scans([4, 4, 4, 4, 4]) + scans([10, 0], "locked"), []),
        (scans([1, 1, 1, 1, 1]) + scans([10], "locked"), ["Only 5 CMBs to train on: .* is 20 points|moves .* by 20 points"]),
        (scans([9, 9, 0]) + scans([10], "locked"), ["Only 2 training subjects have CMBs: intervals .* too narrow"]),
        (scans([4, 4, 4, 4, 4]) + scans([0, 0], "locked"), ["locked scans hold no CMB: .* cannot measure sensitivity"]),
        (scans([4, 4, 4, 4, 4]) + scans([2], "locked"), ["Only 2 CMBs in the locked scans: .* 50 points"]),
    ],
)
def test_little_data_is_taken_with_a_word_on_what_its_numbers_cannot_say(data, notes):
    got = split_subjects(data, settings(folds=2), 3)["notes"]
    assert len(got) == len(notes) and all(re.search(words, note) for words, note in zip(notes, got, strict=True))
