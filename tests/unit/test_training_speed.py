"""The benchmark of training runs, and accounts for the whole of a step."""

from __future__ import annotations

import time

import pytest

from benchmarks import training_speed
from cmb_models.training.examples import load_examples


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
    assert first.plants is not None and first.subject != second.subject


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("precision", training_speed.PRECISIONS)
def test_the_parts_of_a_step_are_its_whole_time(small, precision, ahead):
    start, case = time.perf_counter(), training_speed.Case(1, 1, precision, memory_kept=False, ahead=ahead)
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
