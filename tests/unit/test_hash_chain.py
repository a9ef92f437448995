"""The hash-chained log: what it holds, and every way to break it."""

from __future__ import annotations

import pytest

from cmb_models.hash_chain import append_entry, first_fault, merge_logs, read_entries, with_merged


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.jsonl"


def test_an_empty_log_holds_and_has_no_entries(log):
    assert (first_fault(log), read_entries(log)) == ("", [])


def test_entries_carry_the_hash_of_the_one_before(log):
    first, second = append_entry(log, action="promote", release=1), append_entry(log, action="rollback", release=2)
    assert (first["n"], first["previous_sha256"], second["n"], second["previous_sha256"]) == (1, "", 2, first["sha256"])
    assert read_entries(log) == [first, second]
    assert first_fault(log) == ""


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: [lines[0], lines[1].replace("two", "six"), lines[2]], "line 2 was changed"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 does not follow"),
        (lambda lines: [*lines, lines[2]], "line 4 does not follow"),
        (lambda lines: [lines[0], lines[1][:-9], lines[2]], "line 2 is not a log entry"),
        (lambda lines: [lines[0], "[]", lines[2]], "line 2 is not a log entry"),
    ],
    ids=["edited", "removed", "first removed", "swapped", "doubled", "cut", "foreign"],
)
def test_the_first_broken_link_is_named(log, edit, said):
    for reason in ("one", "two", "three"):
        append_entry(log, reason=reason)
    log.write_text("\n".join(edit(log.read_text().splitlines())) + "\n")
    assert said in first_fault(log)


def test_branches_that_are_merged_twice_hold_each_entry_once(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    append_entry(one, name="base")
    two.write_text(one.read_text())
    append_entry(one, name="a")
    append_entry(two, name="b")
    assert merge_logs(one, one.read_text(), two.read_text())["merged"] == read_entries(two)[1:]
    append_entry(two, name="c")
    merge_logs(one, one.read_text(), two.read_text(), action="merge")
    assert first_fault(one) == "" and [e["name"] for e in with_merged(read_entries(one))] == ["base", "a", "b", "c"]


def test_a_log_that_continues_the_other_needs_no_new_entry(log, tmp_path):
    append_entry(log, name="base")
    short = log.read_text()
    append_entry(log, name="more")
    long = log.read_text()
    for sides in ((short, long), (long, short), (long, ""), ("", long)):
        assert merge_logs(log, *sides) is None and log.read_text() == long
