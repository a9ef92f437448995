"""Batches drawn ahead are the same whoever draws them, and wherever a training begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


def test_on_the_cpu_batches_come_from_one_generator_as_they_always_did(sampler):
    batches, rng = Batches(sampler, 7, torch.device("cpu")), np.random.default_rng(7)
    for step in range(3):
        assert equal(batches.at(step), [torch.from_numpy(a) for a in sampler.batch(rng)])
    assert batches.rng.bit_generator.state == rng.bit_generator.state
