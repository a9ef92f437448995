"""The parts of the registry that need no MLflow: the gate's bounds, flattening."""

from __future__ import annotations

import json

import pytest

from cmb_models.config.params import Gate
from cmb_models.records import flatten, is_number
from cmb_models.registry.gate.check import Check, check_gate
from cmb_models.release.bundle import write_manifest
from tests.support.gates import only_asking

GATE = Gate.model_validate(only_asking(min_sensitivity=0.8, max_fp_per_scan=2.0, max_parity=0.001))


def release(folder, metadata: dict) -> None:
    """What the gate reads of a bundle."""
    (folder / "metadata.json").write_text(json.dumps(metadata))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("sensitivity", "fp_per_scan", "parity", "passed"),
    [
        (0.8, 2.0, 0.001, [True, True, True]),  # each on its bound
        (0.79, 2.01, 0.0011, [False, False, False]),
        (None, None, None, [False, False, False]),
        (float("nan"), float("inf"), {}, [False, False, False]),
        (1.0, 0.0, {"unet": 1e-6, "cnn": 0.01}, [True, True, False]),  # the worse network counts
        (1.0, 0.0, {"unet": 1e-6, "cnn": None}, [True, True, False]),
        (True, False, 0.0, [False, False, True]),
    ],
)
def test_gate_bounds(tmp_path, sensitivity, fp_per_scan, parity, passed):
    test = {"sensitivity": sensitivity, "fp_per_scan": fp_per_scan, "n_lesions": 9, "n_scans": 3}
    metadata = {"metrics": {"evaluate": test}, "parity": parity}
    release(tmp_path, metadata)
    assert [c.passed for c in check_gate(tmp_path, GATE).checks] == passed


def test_figures_of_an_empty_test_set_do_not_pass(tmp_path):
    test = {"sensitivity": 1.0, "fp_per_scan": 0.0, "n_lesions": 0, "n_scans": 0}  # what evaluating nothing gives
    release(tmp_path, {"metrics": {"evaluate": test}, "parity": 0.0})
    assert [c.passed for c in check_gate(tmp_path, GATE).checks] == [False, False, True]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (Check("a", 0.51234, "min", 0.8), "a is 0.5123, at least 0.8 is required"),
        (Check("b", 3.0, "max", 2.0), "b is 3, at most 2 is required"),
    ],
)
def test_a_check_speaks(check, said):
    assert (check.sentence(), check.passed) == (said, False)


def test_a_release_without_any_measurement_fails_every_check(tmp_path):
    release(tmp_path, {})
    checks = check_gate(tmp_path, GATE).checks
    assert [c.passed for c in checks] == [False] * 3
    assert checks[0].sentence() == "sensitivity on the held-out test set was not measured, at least 0.8 is required"


def test_flatten_joins_keys_and_keeps_lists():
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}}) == {"a.b.c": 1, "a.d": [1, 2]}


def test_only_finite_numbers_are_numbers():
    assert [is_number(v) for v in (1, 0.5, True, None, "1", float("nan"), float("inf"))] == [True, True] + [False] * 5
