"""Batches drawn ahead by threads are those that would be drawn in place, whatever changes meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from cmb_models.training import loop
from cmb_models.training.prefetch import EACH, MOST_THREADS, Prefetcher, prefetch_threads
from tests.support.trainings import Killed, assert_equal, kill_at, train

STEPS = 40
pytestmark = pytest.mark.usefixtures("on_one_core")


def names() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("draws-ahead")]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_each_step_has_its_own_batch_and_none_is_drawn_beyond_the_last(threads):
    drawn = []
    with Prefetcher(lambda step: drawn.append(step) or step**2, STEPS, threads) as batches:
        assert [batches.take(step) for step in range(STEPS)] == [step**2 for step in range(STEPS)]
    assert sorted(drawn) == list(range(STEPS))


def test_the_next_ones_are_drawn_before_they_are_asked_for():
    drawn, parallel_trials = [threading.Event() for _ in range(STEPS)], threading.Barrier(2, timeout=60)

    def draw(step):
        if step < 2:
            parallel_trials.wait()  # goes on when two draw at once
        drawn[step].set()

    with Prefetcher(draw, STEPS, 2) as batches:
        batches.take(0)
        assert all(drawn[step].wait(60) for step in range(2 * EACH + 1))
        assert not drawn[2 * EACH + 1].is_set()
        assert len(names()) == 2
    assert names() == []


def test_what_was_drawn_from_something_else_is_drawn_again():
    basis, stale = ["old"], [threading.Event() for _ in range(2 * EACH + 1)]

    def draw(step):
        if basis[0] == "old":
            stale[step].set()
            if step == 2:
                raise IndexError("of a batch that nobody will see")
        return step, basis[0]

    with Prefetcher(draw, STEPS, 2, lambda: basis[0]) as batches:
        assert batches.take(0) == (0, "old")
        assert all(event.wait(60) for event in stale)
        basis[0] = "new"
        assert [batches.take(step) for step in (1, 2, 3)] == [(step, "new") for step in (1, 2, 3)]
        assert [batches.take(step) for step in (0, 20, 21)] == [(step, "new") for step in (0, 20, 21)]


def test_a_fault_is_told_at_its_own_step():
    with Prefetcher(lambda step: 1 // (step - 3), STEPS, 1) as batches:
        assert [batches.take(step) for step in range(3)] == [-1, -1, -1]
        with pytest.raises(ZeroDivisionError):
            batches.take(3)
        assert batches.take(4) == 1


def test_threads_draw_for_a_cuda_device_alone(monkeypatch):
    assert prefetch_threads(torch.device("cpu")) == 0
    for cores, threads in ((1, 1), (2, 2), (16, MOST_THREADS)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert prefetch_threads(torch.device("cuda")) == threads


@pytest.fixture
def mined(monkeypatch):
    """What a U-Net in training is given as such: something else each time."""
    looks = []

    def look(model, examples, rng):
        looks.append(np.array([[0, *rng.integers(5, 15, 3)]]))
        return looks[-1]

    monkeypatch.setattr(loop, "mine_hard_negatives", look)
    return looks


def weights_by(threads, monkeypatch, kind):
    monkeypatch.setattr(loop, "prefetch_threads", lambda device: threads)
    return train(kind, hard_negatives_at=(0.3, 0.6)) if kind == "unet" else train(kind)


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_a_training_comes_to_the_same_weights(kind, mined, monkeypatch):
    """The U-Net's looks for look-alikes in between, from which it draws on."""
    assert_equal(weights_by(2, monkeypatch, kind), weights_by(0, monkeypatch, kind))
    assert len(mined) == (4 if kind == "unet" else 0)


def test_a_training_that_goes_back_draws_its_steps_again(mined, monkeypatch):
    """Also those from before the look-alikes were found."""
    gradient, diverged = loop._gradient, []

    def diverges_once(state, loss_of):
        value, norm = gradient(state, loss_of)
        if state.step != 8 or state.rate < 1:
            return value, norm
        diverged.append(state.step)
        return value * float("nan"), norm

    monkeypatch.setattr(loop, "_gradient", diverges_once)
    assert_equal(weights_by(2, monkeypatch, "unet"), weights_by(0, monkeypatch, "unet"))
    assert diverged == [8, 8] and len(mined) == 8


def test_a_training_that_ends_early_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(loop, "prefetch_threads", lambda device: 2)
    with pytest.raises(Killed):
        train("cnn", step_done=kill_at(3))
    assert names() == []
