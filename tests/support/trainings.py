"""Trainings of a few steps, and one that is killed."""

from __future__ import annotations

import numpy as np
import torch

from cmb_models.training.data.samplers import CnnSampler, UnetSampler, label_candidates
from cmb_models.training.loop import train_cnn, train_unet
from tests.support.examples import CNN, UNET, example

SNAPSHOT = 5  # steps between two states that can be gone back to; few, so that the trainings here can be short
STEPS = 2 * SNAPSHOT + 2


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def unet_sampler(**changes) -> UnetSampler:
    mined = {"hard_negatives_at": (0.5,), "hard_negative_fraction": 0.5}
    return UnetSampler([example([(10, 12, 16)])], UNET.model_copy(update={"steps": STEPS, "batch": 1, **mined, **changes}))


def cnn_sampler(**changes) -> CnnSampler:
    group = label_candidates(example([(10, 10, 10)]), np.array([[20, 20, 5]]), CNN.match_mm)  # and the lesion itself
    return CnnSampler([group], CNN.model_copy(update={"steps": STEPS, "dropout": 0.3, "batch": 4, **changes}))


def train(kind, checkpoint=None, step_done=None, **changes):
    """The trained weights. Batches are drawn by the number of their step; stage 2 draws from torch's generator too (dropout)."""
    if kind == "unet":
        return train_unet(unet_sampler(**changes), 3, step_done, checkpoint).state_dict()
    return train_cnn(cnn_sampler(**changes), 3, step_done, checkpoint).state_dict()


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def kill_at(step):
    def done(n):
        if n == step:
            raise Killed

    return done
