"""The gate on bundles with saved rows: each check by hand, what is too little to judge by, and production to compare with."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from cmb_models.config.params import Gate, load_params
from cmb_models.evaluation.statistics.strata import SIZES_MM
from cmb_models.registry.gate.check import check_gate
from cmb_models.registry.gate.criteria import size_floors
from cmb_models.release.bundle import write_manifest
from tests.support.bundles import make_bundle
from tests.support.gates import only_asking
from tests.support.imports import ROOT
from tests.support.refused import refused
from tests.support.scored import hashes, scored, write_evidence

SHIPPED = load_params(ROOT / "params.yaml").gate
HIT, MISS = 0.9, 0.1


def gate(**limits) -> Gate:
    return Gate.model_validate(only_asking(**limits))


def locked(count: int = 12, hits: int = 4, of: int = 5, false: int = 0, site: str = "a"):
    """Scans that all have `of` microbleeds, of which `hits` score above the threshold, and as many false positives."""
    return [scored(f"{site}_sub-{n}", [HIT] * hits + [MISS] * (of - hits), [HIT] * false) for n in range(count)]


def one(folder, settings: Gate, production=None):
    """The only check that these settings ask for; its rows never contradict its figures."""
    checks = [c for c in check_gate(folder, settings, production).checks if "saved rows" not in c.name]
    assert len(checks) == 1, [c.name for c in checks]
    return checks[0]


@pytest.mark.parametrize(
    ("scans", "asked", "limit", "measured"),
    [
        (locked(hits=4), "min_sensitivity", 0.8, 0.8),
        (locked(hits=4), "min_sensitivity_low", 0.68, None),  # all alike: Wilson's interval of 48 of 60 begins at .682
        (locked(false=2), "max_fp_per_scan", 2.0, 2.0),
        (locked(false=2), "max_fp_per_scan_high", 3.0, None),  # all alike: Poisson's interval of 24 in 12 scans ends at 2.98
        (locked(hits=3, of=5, false=1), "min_sensitivity_at_fp", 0.6, None),
        ([*locked(), *(scored(f"a_sub-{90 + n}", [], [HIT]) for n in range(5))], "max_fp_per_cmb_free_scan", 1.0, 1.0),
        (locked(hits=4), "min_site_sensitivity", 0.8, 0.8),
        (locked(false=2), "max_site_fp_per_scan", 2.0, 2.0),
    ],
)
def test_each_limit_is_held_at_its_value(tmp_path, scans, asked, limit, measured):
    folder = write_evidence(tmp_path, scans)
    check = one(folder, gate(**{asked: limit}))
    if measured is not None:
        assert check.measured == pytest.approx(measured) and check.passed
    step = 0.01 if asked.startswith("min_") else -0.01
    assert not one(folder, gate(**{asked: check.measured + step})).passed
    assert one(folder, gate(**{asked: check.measured})).passed


def test_intervals_end_where_wilson_and_poisson_say(tmp_path):
    """Nothing varies between subjects, so resampling says nothing: 48 of 60 by Wilson, 24 in 12 scans by Garwood."""
    folder = write_evidence(tmp_path, locked(hits=4, false=2))
    sensitivity, false = (one(folder, gate(**{k: v})) for k, v in (("min_sensitivity", 0.5), ("max_fp_per_scan_high", 4.0)))
    assert sensitivity.interval == pytest.approx((0.682, 0.882), abs=1e-3)
    assert false.measured == false.interval[1] == pytest.approx(35.71 / 12, abs=0.01)


def test_the_shipped_gate_lets_a_good_release_pass_and_holds_bad_ones(tmp_path):
    settings = SHIPPED.model_copy(update={"max_seconds": None})
    rng = np.random.default_rng(0)

    def verdict(name: str, hit: float, rate: float) -> bool:
        scans = []
        for n in range(20):
            found = rng.uniform(0, 1, n % 6) < hit
            false = np.full(rng.poisson(rate), 0.6).tolist() + [0.01] * 20
            scans.append(scored(f"a_sub-{n}", np.where(found, HIT, MISS).tolist(), false, 2.5))
        return check_gate(write_evidence(tmp_path / name, scans), settings).passed

    assert verdict("good", 0.8, 0.5)
    assert not verdict("blind", 0.5, 0.3)
    assert not verdict("noisy", 0.8, 3.0)
    assert not check_gate(write_evidence(tmp_path / "drifted", locked(20), parity={"unet": 0.01, "cnn": 0.0}), settings).passed


def test_too_few_to_judge_is_told_and_passes(tmp_path):
    folder = write_evidence(tmp_path, [*locked(3, hits=0, of=3, false=9), *locked(6, hits=2, of=2, site="b")])
    report = check_gate(folder, gate(min_site_sensitivity=0.9, max_site_fp_per_scan=1, max_fp_per_cmb_free_scan=1))
    result = {c.name: (c.measured, c.passed, c.note) for c in report.checks if c.insufficient_data}
    assert result == {
        "sensitivity of dataset a": (None, True, "9 microbleeds, at least 10 needed"),
        "false positives per scan of dataset a": (None, True, "3 scans, at least 5 needed"),
        "false positives per CMB-free scan": (None, True, "0 such scans, at least 5 needed"),
    }
    assert report.passed and "was not judged" in next(c for c in report.checks if c.insufficient_data).sentence()


def test_each_size_has_its_floor(tmp_path):
    small = [scored(f"a_sub-{n}", [HIT, MISS], (), 1.5) for n in range(10)]
    large = [scored(f"b_sub-{n}", [HIT, HIT], (), 6.0) for n in range(10)]
    folder, floors = write_evidence(tmp_path, small + large), dict.fromkeys(SHIPPED.min_size_sensitivity.model_dump())
    assert one(folder, gate(min_size_sensitivity=floors | {"from_5_mm": 1.0})).passed
    check = one(folder, gate(min_size_sensitivity=floors | {"below_2_mm": 0.6}))
    assert (check.name, check.measured, check.passed) == ("sensitivity for microbleeds of below 2 mm", 0.5, False)
    assert len(size_floors(SHIPPED)) == len(SIZES_MM) + 1


def test_scores_that_mean_nothing_fail_the_calibration(tmp_path):
    """60 candidates of score .9, half of them microbleeds: the error is .4."""
    scans = [scored(f"a_sub-{n}", [0.9] * 3, [0.9] * 3) for n in range(10)]
    check = one(write_evidence(tmp_path, scans), gate(max_ece=0.05))
    assert check.measured == pytest.approx(0.4) and not check.passed
    silent = [scored(f"a_sub-{n}", []) for n in range(10)]
    assert one(write_evidence(tmp_path / "silent", silent), gate(max_ece=0.05)).measured is None


def test_no_microbleed_to_test_on_measures_no_sensitivity(tmp_path):
    folder = write_evidence(tmp_path, [scored(f"a_sub-{n}", [], [HIT]) for n in range(6)])
    for asked in ("min_sensitivity", "min_sensitivity_low", "min_sensitivity_at_fp", "min_sensitivity_at_fp_low"):
        check = one(folder, gate(**{asked: 0.0}))
        assert check.measured is None and not check.passed


def test_a_bundle_without_rows_fails_all_that_needs_them_with_the_remedy(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps({"parity": 0.0}))
    write_manifest(tmp_path)
    settings = SHIPPED.model_copy(update={"max_seconds": None})
    report = check_gate(tmp_path, settings)
    failed = [c for c in report.checks if not c.passed]
    assert len(failed) == 11 and all(c.measured is None for c in failed)
    assert "run `dvc repro` and register it again" in failed[-1].sentence()


def test_rows_of_another_evaluation_are_noticed(tmp_path):
    folder = write_evidence(tmp_path, locked(hits=2))
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["metrics"]["evaluate"]["hits"] += 12
    (folder / "metadata.json").write_text(json.dumps(metadata))
    write_manifest(folder)
    (check,) = check_gate(folder, gate()).checks
    assert not check.passed and check.note == "hits 36 where the rows have 24"


def test_rows_with_a_part_missing_are_refused(tmp_path):
    folder = write_evidence(tmp_path, locked())
    (folder / "evaluation/lesions.csv").unlink()
    with refused("file-not-found", case=r"lesions\.csv"):
        check_gate(folder, gate())


def test_latency_is_that_of_the_bundles_own_networks(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    check = check_gate(folder, gate(max_seconds=20)).checks[0]
    assert 0 < check.measured < 20 and check.passed and "this machine" in check.note


def margins(folder, production, **limits):
    checks = check_gate(folder, gate(**({"sensitivity_margin": 0.1, "fp_margin": 0.5} | limits)), production).checks
    return [c for c in checks if "production" in c.name]


def test_an_equal_release_passes_any_margin(tmp_path):
    sides = [write_evidence(tmp_path / name, locked(false=1)) for name in "ab"]
    found = margins(*sides, sensitivity_margin=0.0, fp_margin=0.0)
    assert [(c.measured, c.interval, c.passed) for c in found] == [(0.0, (0.0, 0.0), True)] * 2
    assert found[0].note == "difference +0.000 on 12 held-out scans in common"


def test_a_worse_release_fails_its_margin_and_only_that(tmp_path):
    production = write_evidence(tmp_path / "production", locked(hits=5))
    worse = write_evidence(tmp_path / "worse", locked(hits=4))
    noisy = write_evidence(tmp_path / "noisy", locked(hits=5, false=1))
    assert [(round(c.measured, 9), c.passed) for c in margins(worse, production)] == [(-0.2, False), (0.0, True)]
    assert [(round(c.measured, 9), c.passed) for c in margins(noisy, production)] == [(0.0, True), (1.0, False)]
    assert [c.passed for c in margins(production, worse)] == [True, True]
    assert [c.passed for c in margins(worse, production, sensitivity_margin=0.2)] == [True, True]
    assert margins(worse, production, sensitivity_margin=None, fp_margin=None) == []


def test_a_gain_on_the_mean_that_might_be_chance_is_no_loss_either(tmp_path):
    """Three subjects lose two microbleeds of five and nine gain one: +3/60 on the mean, but the interval reaches below -.1."""
    production = write_evidence(tmp_path / "production", locked(hits=3))
    mixed = [*locked(3, hits=1), *locked(12, hits=4)[3:]]
    check = margins(write_evidence(tmp_path / "mixed", mixed), production)[0]
    assert check.note.startswith("difference +0.050 on") and check.measured < -0.05
    assert check.interval[0] == check.measured


def test_other_locked_scans_cannot_be_compared(tmp_path):
    own = write_evidence(tmp_path / "own", locked())
    production = write_evidence(tmp_path / "production", locked(site="b"))
    found = margins(own, production)
    assert [c.passed for c in found] == [False, False]
    assert (
        "0 held-out scans in common, at least 10 needed: `cmb release compare production REF --rerun-baseline`"
        in found[0].sentence()
    )


def test_scans_in_common_are_enough_when_they_are_enough(tmp_path):
    """The same names with other files count for nothing; twelve of twenty shared files do."""
    first, second = locked(20, hits=5), locked(20, hits=5)
    production = write_evidence(tmp_path / "production", first)
    own = write_evidence(tmp_path / "own", second)
    known = hashes(second) | {s.key: "changed" for s in second[12:]}
    (own / "lineage.json").write_text(json.dumps({"locked_scans": known}))
    write_manifest(own)
    assert [c.passed for c in margins(own, production)] == [True, True]
    assert [c.passed for c in margins(own, production, min_common_scans=13)] == [False, False]
    few = write_evidence(tmp_path / "few", locked(12, hits=0, of=0))
    few_too = margins(few, write_evidence(tmp_path / "few_too", locked(12, hits=0, of=0)))
    assert [c.passed for c in few_too] == [False, True] and "0 microbleeds, at least 10 needed" in few_too[0].note


def test_a_release_is_not_compared_with_itself_or_without_rows(tmp_path):
    own = write_evidence(tmp_path / "own", locked())
    assert margins(own, own) == []
    old = tmp_path / "old"
    old.mkdir()
    (old / "metadata.json").write_text("{}")
    write_manifest(old)
    assert "no saved rows in production" in margins(own, old)[0].note


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, ""),
        ({"min_sensitivity": 0.9, "max_fp_per_scan": 1, "min_site_sensitivity": 0.1}, ""),  # stricter, or asked for again
        ({"min_sensitivity": 0.5}, "min_sensitivity 0.8 to 0.5"),
        ({"max_fp_per_scan": None}, "max_fp_per_scan 2 to off"),
        ({"fp_margin": 0.6}, "fp_margin 0.5 to 0.6"),
        ({"tolerance_mm": 5.0, "seed": 1}, "seed 0 to 1; tolerance_mm 3 to 5"),
        ({"min_lesions": 50}, "min_lesions 10 to 50"),
    ],
)
def test_a_gate_loosened_after_training_is_noticed(tmp_path, now, said):
    limits = {"min_sensitivity": 0.8, "max_fp_per_scan": 2, "fp_margin": 0.5}
    folder = write_evidence(tmp_path, locked(hits=5), gate=only_asking(**limits))
    check = check_gate(folder, gate(**limits | now)).checks[0]
    assert (check.passed, check.note.partition(": restore them")[0]) == (not said, said)


def test_a_size_whose_floor_was_lowered_is_named(tmp_path):
    before = only_asking()
    before["min_size_sensitivity"] = before["min_size_sensitivity"] | {"from_3_mm": 0.5}
    folder = write_evidence(tmp_path, locked(hits=5), gate=before)
    assert "min_size_sensitivity.from_3_mm 0.5 to off" in check_gate(folder, gate()).checks[0].note


def test_the_report_is_json_and_the_same_every_time(tmp_path):
    sides = [write_evidence(tmp_path / name, locked(false=n)) for n, name in enumerate("ab")]
    settings = SHIPPED.model_copy(update={"max_seconds": None})
    reports = [json.dumps(check_gate(*(sides[1], settings, sides[0])).as_dict(), allow_nan=False) for _ in range(2)]
    assert reports[0] == reports[1]
    result = json.loads(reports[0])
    assert result["settings"]["sensitivity_margin"] == SHIPPED.sensitivity_margin and result["against"]
    assert {"name", "measured", "interval", "bound", "limit", "passed", "note"} <= set(result["checks"][0])


def test_thirty_scans_take_about_a_second(tmp_path):
    """60 candidates a scan, as many as the shipped settings keep; four times what it takes on a quiet core is allowed."""
    rng = np.random.default_rng(0)
    sides = []
    for name in "ab":
        scans = [scored(f"a_sub-{n}", rng.uniform(0, 1, n % 6), rng.beta(0.2, 5, 60)) for n in range(30)]
        sides.append(write_evidence(tmp_path / name, scans))
    start = time.process_time()
    check_gate(*(sides[0], SHIPPED.model_copy(update={"max_seconds": None}), sides[1]))
    assert time.process_time() - start < 4
