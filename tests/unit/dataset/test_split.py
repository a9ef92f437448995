from __future__ import annotations

import re

import pytest
import yaml

from cmb_models.config.params import Split, load_params
from cmb_models.dataset.split import split_faults, split_subjects
from tests.support.imports import ROOT
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
        (SITE + LOCKED, settings(locked=(), fraction=0.3), "split-not-locked", "split.locked_datasets", "\\[\\]"),
    ],
)
def test_impossible_splits_are_refused(data, chosen, code, case, got):
    assert [fault.code for fault in split_faults(data, chosen, 3)] == [code]
    with refused(code, case=case, got=got):
        split_subjects(data, chosen, 3)


@pytest.mark.parametrize("sessions", [1, 4])
def test_a_single_subject_cannot_be_cross_validated(sessions):
    faults = split_faults(scans([5], sessions=sessions) + LOCKED, settings(folds=2), 1)
    assert [fault.expected for fault in faults] == ["at least 2 subjects", "CMBs in at least 2"]


def test_a_newcomer_with_three_scans_sees_every_fault_and_what_would_fit():
    with refused("dataset-faults") as raised:
        split_subjects(scans([4, 0, 0]), settings(folds=5), 3)
    message = str(raised.value)
    assert "3 faults" in message
    for case in ("split.locked_datasets", "split.folds", "training subjects"):
        assert case in message
    assert raised.value.remedy.startswith("no settings fit: with ingest.min_scans: 3, add scans")


def test_a_second_site_leaves_the_held_out_subjects_of_the_first():
    """Else some that the release in production was trained on would test it."""
    chosen = settings(locked=(), fraction=0.3)
    alone = split_subjects(SITE, chosen, 3)["locked"]
    both = split_subjects(SITE + scans([3, 2, 1, 1, 1, 0, 0], "other"), chosen, 3)["locked"]
    assert [s for s in both if s.startswith("site")] == alone and len(both) == len(alone) + 2


@pytest.mark.parametrize("removed", range(9))
def test_a_withdrawn_subject_changes_at_most_one_other(removed):
    chosen = settings(folds=2, locked=(), fraction=0.34)
    before = split_subjects(SITE, chosen, 3)["locked"]
    after = split_subjects([s for n, s in enumerate(SITE) if n != removed], chosen, 3)["locked"]
    assert len(set(before) ^ set(after)) <= 2


def test_another_seed_locks_others():
    locked = [split_subjects(SITE, Split(folds=3, seed=n, locked_datasets=(), locked_fraction=0.3), 3)["locked"] for n in range(9)]
    assert len({tuple(subjects) for subjects in locked}) > 4


def test_a_new_workspace_splits_one_dataset_of_four_scans():
    params = load_params(ROOT / "params.yaml")
    split = split_subjects(scans([1, 1, 1, 1]), params.split, params.ingest.min_scans)
    assert (len(split["folds"]), len(split["locked"])) == (3, 1)


@pytest.mark.parametrize("data", [scans([4, 2, 1, 1]), SITE, SITE + LOCKED])
def test_the_suggested_settings_fit(data):
    chosen = settings(folds=8, locked=("held-out",), fraction=0.0)
    with refused("dataset-faults") as raised:
        split_subjects(data, chosen, 3)
    values = yaml.safe_load(f"{{{raised.value.remedy.partition(' with ')[2]}}}")
    assert split_subjects(data, Split(seed=0, **values), 3)["locked"]


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
