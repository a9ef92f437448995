"""Batches drawn ahead are the same whoever draws them, and wherever a training begins."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from cmb_models.training import batches, loop
from cmb_models.training.batches import Batches, Numbered, draw_ahead
from cmb_models.training.sampling import UnetSampler
from tests.examples import UNET, example

STEPS = 6


@pytest.fixture
def sampler():
    return UnetSampler([example([(10, 10, 10), (20, 8, 12)])], UNET.model_copy(update={"steps": STEPS, "lesion_fraction": 0.5}))


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("helpers", [0, 1, 2])
def test_any_number_of_helpers_draws_the_same_batches(sampler, helpers):
    wanted = [[torch.from_numpy(a) for a in sampler.batch(np.random.default_rng([5, n]))] for n in range(STEPS)]
    drawn = list(draw_ahead(Numbered(sampler, 5), 0, helpers, pin=False))
    assert len(drawn) == STEPS and all(map(equal, drawn, wanted))
    assert not equal(drawn[0], drawn[1])
    late = list(draw_ahead(Numbered(sampler, 5), 4, helpers, pin=False))
    assert len(late) == 2 and all(map(equal, late, wanted[4:]))


def test_a_sampler_that_learned_look_alikes_draws_around_them(sampler):
    bare = list(draw_ahead(Numbered(sampler, 5), 0, 2, pin=False))
    sampler.hard = np.array([[0, 16, 24, 8]])
    assert not all(map(equal, bare, draw_ahead(Numbered(sampler, 5), 0, 2, pin=False)))


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_may_be_gone_back_to_and_look_alikes_come_in_at_once(sampler, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn = Batches(sampler, 5, torch.device("cpu"), ahead=True)
        first = [drawn.at(n) for n in range(4)]
        assert equal(drawn.at(1), first[1]) and equal(drawn.at(2), first[2])  # back, as after a diverging step
        sampler.hard = np.array([[0, 16, 24, 8]])
        drawn.anew()
        wanted = [torch.from_numpy(a) for a in sampler.batch(np.random.default_rng([5, 3]))]
        assert equal(drawn.at(3), wanted) and not equal(wanted, first[3])
    finally:
        torch.set_num_threads(before)


def test_a_training_that_mines_look_alikes_draws_around_them_from_the_next_step_on(monkeypatch):
    """With a helper, which is some batches ahead when the look-alikes are found, as without."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # one for the training, one for a helper
    monkeypatch.setattr(loop, "Batches", functools.partial(Batches, ahead=True))
    settings = UNET.model_copy(update={"steps": 24, "lesion_fraction": 0.2, "hard_fraction": 1.0, "mine_at": (0.4,)})
    weights = []
    for helpers in (0, 1):
        monkeypatch.setattr(batches, "MOST_HELPERS", helpers)
        sampler = UnetSampler([example([(10, 10, 10), (20, 8, 12)])], settings)
        weights.append(loop.train_unet(sampler, 5).state_dict())
        assert len(sampler.hard)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_on_the_cpu_batches_come_from_one_generator_as_they_always_did(sampler):
    drawn, rng = Batches(sampler, 7, torch.device("cpu")), np.random.default_rng(7)
    for step in range(3):
        assert equal(drawn.at(step), [torch.from_numpy(a) for a in sampler.batch(rng)])
    assert drawn.rng.bit_generator.state == rng.bit_generator.state
