"""The benchmark of training runs, and accounts for the whole of a step."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks import training_processors, training_speed
from cmb_models.files import read_json
from cmb_models.training.data.examples import load_examples


@pytest.fixture
def small(monkeypatch, tmp_path):
    recipe = training_speed.recipe(2).model_copy(
        update={"channels": (4, 4, 8), "strides": (1, 2, 1), "patch_vox": (16, 16, 8), "batch": 2}
    )
    monkeypatch.setattr(training_speed, "SHAPE", (64, 64, 32))
    monkeypatch.setattr(training_speed, "recipe", lambda steps: recipe.model_copy(update={"steps": steps}))
    training_speed.write_scans(tmp_path, 2)
    return tmp_path


def test_scans_are_as_the_preprocess_stage_writes_them(small):
    first, second = load_examples(small)
    assert (first.key, first.prepared.shape, len(first.centres_mm("cmb"))) == ("s_000", (64, 64, 32), training_speed.LESIONS)
    assert first.lesion_bank is not None and first.subject != second.subject


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("precision", training_speed.PRECISIONS)
def test_the_parts_of_a_step_are_its_whole_time(small, precision, ahead):
    start, case = time.perf_counter(), training_speed.Case(1, 1, precision, ahead=ahead)
    parts = training_speed.steps_apart(small, case, steps=3, seed=0)
    assert set(parts) == {"sampler", "forward", "backward", "optimizer"}
    assert all(seconds > 0 for seconds in parts.values()) and sum(parts.values()) < time.perf_counter() - start


@pytest.mark.parametrize("threads", [0, 2])
def test_drawing_is_measured_by_itself(small, threads):
    measured = training_speed.drawing_alone(small, threads, steps=5)
    assert measured["threads"] == threads and measured["batches_per_s"] > 0


def test_the_whole_loop_is_measured_with_its_memory(small):
    measured = training_speed.whole_loop(small, 1, steps=3)
    assert measured["scans"] == 2 and measured["steps_per_s"] > 0
    assert 0.1 < measured["peak_gb"] < measured["limit_gb"]


def test_precisions_are_compared_with_and_without_avx512(small, monkeypatch, capsys):
    """The ratios come from the runs, and the environment is left as it was."""
    monkeypatch.setenv(training_processors.ISA, "SSE41")
    times = {run: 1.0 + n for n, run in enumerate(training_processors.RUNS)}
    choice = {"": "bfloat16", "AVX2": "float32"}
    seen = []

    def measured(function, isa, *arguments):
        with training_processors.environment({training_processors.ISA: isa or None}):
            seen.append((isa, os.environ.get(training_processors.ISA)))
        return choice[isa] if function is training_processors._choice else times[arguments[1]]

    monkeypatch.setattr(training_processors, "_in_a_process", measured)
    found = training_processors.compare(small, steps=2, rounds=2)
    assert {isa or None for isa, _ in seen} == {now for _, now in seen} == {None, "AVX2"}
    assert os.environ[training_processors.ISA] == "SSE41"
    # Runs take 1 to 6 s: torch's float32, float32 and bfloat16, then the same under AVX2.
    assert found["choice_over_best"] == {"all": 3 / 2, "AVX2": 1.0} and found["fp32_speedup"] == 4 / 5
    assert "AVX2: chosen float32, 1.00 times" in "\n".join(training_processors.lines(found))


def test_a_step_is_timed_in_a_process_of_its_own(small):
    run = training_processors.Run("AVX2", "float32")
    assert 0 < training_processors._in_a_process(training_processors._seconds_per_step, run.isa, small, run, 1) < 60
    assert training_processors._in_a_process(training_processors._choice, "AVX2") == "float32"


def test_the_committed_run_chose_the_faster_precision():
    measured = read_json(training_speed.ROOT / "benchmarks/results/training_speed.json")["processors"]
    assert measured["choice"]["AVX2"] == "float32" and max(measured["choice_over_best"].values()) <= 1.05
