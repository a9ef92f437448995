"""Evaluations on the held-out set are counted, by set and by bundle, and a broken count is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cmb_models.evaluation.exposure_log import KEY_FIGURES, contents_of, count_evaluation, locked_scans, require_whole
from cmb_models.hash_chain import append_entry, canonical_sha256, first_fault, read_entries
from cmb_models.report import wording
from tests.support.refused import refused

METRICS = dict.fromkeys(KEY_FIGURES, 0.5) | {"strata": {}}


def evaluate(file, bundle="b1", scans=("s1", "s2")):
    counted = count_evaluation(file, bundle, scans, "c0ffee", METRICS)
    return counted["evaluations"], counted["bundles"]


def test_evaluations_are_counted_by_set_and_bundle(tmp_path):
    file = tmp_path / "exposure.jsonl"
    assert [evaluate(file), evaluate(file), evaluate(file, "b2"), evaluate(file, "b2", ("t1",)), evaluate(file)] == [
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
    file = tmp_path / "exposure.jsonl"
    evaluate(file)
    evaluate(file)
    file.write_text(file.read_text().splitlines()[1] + "\n")
    before = file.read_text()
    for act in (lambda: require_whole(file), lambda: evaluate(file)):
        with refused("log-damaged"):
            act()
    assert file.read_text() == before


def test_no_log_yet_is_whole(tmp_path):
    require_whole(tmp_path / "exposure.jsonl")
    assert not list(tmp_path.iterdir())  # asking begins none


def test_a_locked_set_is_known_by_its_files_not_their_names():
    one, two = {"key": "a", "sha256": "11"}, {"key": "b", "sha256": "22"}
    assert locked_scans([one, two]) == locked_scans([{**two, "key": "c"}, one]) == ["11", "22"]


def test_a_scan_that_was_saved_again_is_still_the_same(tmp_path):
    file = tmp_path / "exposure.jsonl"
    one, other = ({"sha256": name, "content_sha256": "same"} for name in ("11", "22"))
    assert contents_of([one, {"sha256": "33"}]) == {"11": "same"}
    count_evaluation(file, "b1", ["old"], "", METRICS)  # of an older version, without contents
    count_evaluation(file, "b1", locked_scans([one]), "", METRICS, contents_of([one]))
    counted = count_evaluation(file, "b2", locked_scans([other]), "", METRICS, contents_of([other]))
    assert (counted["evaluations"], counted["seen_before"]) == (2, 1)


def test_a_set_is_no_new_one_for_a_scan_more_or_less(tmp_path):
    file = tmp_path / "exposure.jsonl"
    for bundle in ("b1", "b2", "b2"):
        evaluate(file, bundle, ("s1", "s2", "s3"))
    less, more, other = (count_evaluation(file, "b3", s, "", METRICS) for s in (("s1", "s2"), ("s1", "s2", "s4"), ("s5",)))
    keys = ("evaluations", "bundles", "scans", "seen_before")
    assert [[result[k] for k in keys] for result in (less, more, other)] == [[4, 3, 2, 2], [5, 3, 3, 2], [1, 1, 1, 0]]
    assert (
        "2 of these 3 held-out scans had been evaluated before, by now up to 5 times, with 3 different bundles."
        in wording.exposure(more)
    )
    assert wording.exposure(less).startswith(
        "These held-out scans have been evaluated 4 times"
    ) and "first evaluation" in wording.exposure(other)


def test_the_most_bundles_that_a_scan_was_shown_to_are_told(tmp_path):
    """One scan often, to one bundle; another to three: whoever was steered was steered by the latter."""
    file = tmp_path / "exposure.jsonl"
    for bundle, scans in [*[("b1", ("s1",))] * 4, ("b1", ("s2",)), ("b2", ("s2",)), ("b3", ("s2",))]:
        evaluate(file, bundle, scans)
    assert evaluate(file, "b1", ("s1", "s2")) == (5, 3)


def test_no_scans_are_no_evaluation(tmp_path):
    with refused("locked-set-empty"):
        evaluate(tmp_path / "exposure.jsonl", scans=())
    assert not list(tmp_path.iterdir())


def test_evaluations_of_several_processes_are_all_counted(tmp_path):
    with ThreadPoolExecutor(4) as pool:  # the lock is the open folder's, so threads wait for each other as processes do
        counted = list(pool.map(lambda n: evaluate(tmp_path / "exposure.jsonl", f"b{n % 2}")[0], range(12)))
    assert sorted(counted) == list(range(1, 13)) and not first_fault(tmp_path / "exposure.jsonl")


def test_evaluations_of_before_scans_were_listed_still_count(tmp_path):
    file = tmp_path / "exposure.jsonl"
    append_entry(file, bundle_sha256="b1", scans_sha256=canonical_sha256(["s1", "s2"]), commit="", figures={})
    assert evaluate(file, "b2", ("s1", "s2")) == (2, 2) and evaluate(file, "b2", ("s1",)) == (2, 1)
