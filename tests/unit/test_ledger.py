"""Looks at the locked set are counted, by set and by bundle, and a broken count is refused."""

from __future__ import annotations

import pytest

from cmb_models.chain import read_entries
from cmb_models.errors import InputError
from cmb_models.evaluation.ledger import KEY_FIGURES, count_evaluation, locked_scans_sha256, require_whole

METRICS = dict.fromkeys(KEY_FIGURES, 0.5) | {"strata": {}}


def look(file, bundle="b1", scans="s1"):
    counted = count_evaluation(file, bundle, scans, "c0ffee", METRICS)
    return counted["evaluations"], counted["bundles"]


def test_looks_are_counted_by_set_and_bundle(tmp_path):
    file = tmp_path / "looks.jsonl"
    assert [look(file), look(file), look(file, "b2"), look(file, "b2", "s2"), look(file)] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (1, 1),
        (4, 2),
    ]
    entries = read_entries(file)
    assert [e["n"] for e in entries] == [1, 2, 3, 4, 5] and entries[0]["commit"] == "c0ffee"
    assert entries[0]["figures"] == dict.fromkeys(KEY_FIGURES, 0.5) and entries[0]["time"].endswith("Z")


def test_a_broken_log_is_refused_and_not_written_to(tmp_path):
    file = tmp_path / "looks.jsonl"
    look(file)
    look(file)
    file.write_text(file.read_text().splitlines()[1] + "\n")
    before = file.read_text()
    for act in (lambda: require_whole(file), lambda: look(file)):
        with pytest.raises(InputError, match="line 1 does not follow.*git checkout"):
            act()
    assert file.read_text() == before


def test_no_log_yet_is_whole(tmp_path):
    require_whole(tmp_path / "looks.jsonl")
    assert not list(tmp_path.iterdir())  # asking begins none


def test_a_locked_set_is_known_by_its_files_not_their_names():
    one, two = {"key": "a", "sha256": "11"}, {"key": "b", "sha256": "22"}
    assert locked_scans_sha256([one, two]) == locked_scans_sha256([{**two, "key": "c"}, one]) != locked_scans_sha256([one])
