"""A training's batches are the same in place and drawn ahead by other processes, however it got to a step."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from cmb_models.training import batches as batches_module
from cmb_models.training import loop
from cmb_models.training.batches import WORTH_STEPS, Batches, generator, helpers
from cmb_models.training.examples import load_examples, save_example
from cmb_models.training.loop import train_cnn, train_unet
from cmb_models.training.sampling import CnnSampler, UnetSampler, label_candidates
from tests.examples import CNN, UNET, example

STEPS = 12
LOOK = 5  # the step before which the sampler changes


@pytest.fixture
def unet_sampler(tmp_path):
    """Makes samplers of memory-mapped scans, as trainings have them."""
    save_example(tmp_path, example([(10, 12, 16)]))
    settings = UNET.model_copy(update={"steps": STEPS, "hard_fraction": 0.5, "mine_at": (LOOK / STEPS,)})
    return lambda: UnetSampler(load_examples(tmp_path), settings)


def cnn_sampler():
    found = np.array([[25, 25, 5], [5, 25, 9], [10, 10, 5]])
    group = label_candidates(example([(10, 10, 10), (22, 8, 20)]), found, CNN.match_mm)
    return CnnSampler([group], CNN.model_copy(update={"steps": STEPS, "dropout": 0.3}))


def drawn(sampler, how_many, steps=range(STEPS)) -> list[bytes]:
    """The batches of these steps. From LOOK on half of what is no lesion lies around one place; a step back restores it."""
    with Batches(sampler, 3, STEPS, {LOOK}, how_many) as batches:
        found, before = [], sampler.state()
        for last, step in zip((-1, *steps), steps, strict=False):
            if step <= last:
                sampler.restore(before)
            if step == LOOK:
                sampler.hard = np.array([[0, 25, 25, 5]])
            found.append(b"".join(part.numpy().tobytes() for part in batches.of(step)))
    return found


@pytest.mark.parametrize("how_many", [0, 2])
def test_batches_are_those_of_their_step_and_state(unet_sampler, how_many):
    sampler, expected = unet_sampler(), []
    for step in range(STEPS):
        sampler.hard = np.array([[0, 25, 25, 5]] if step >= LOOK else np.zeros((0, 4)), dtype=np.int64)
        expected.append(b"".join(part.tobytes() for part in sampler.batch(generator(3, step))))
    assert drawn(unet_sampler(), how_many) == expected and len(set(expected)) == STEPS
    back = [0, 1, 2, 3, 1, 2, 3, 4]  # a training that diverged goes back
    assert drawn(unet_sampler(), how_many, back) == [expected[n] for n in back]
    over = [*range(LOOK + 2), 2, 3, 4, 5, 6]  # to before the sampler changed
    assert drawn(unet_sampler(), how_many, over) == [expected[n] for n in over]
    assert drawn(unet_sampler(), how_many, range(LOOK, STEPS)) == expected[LOOK:]  # one that was killed goes on


def test_no_helper_outlives_its_training(unet_sampler):
    with Batches(unet_sampler(), 3, STEPS, helpers=2) as batches:
        batches.of(0)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_a_training_has_the_same_weights_whoever_draws(unet_sampler, kind, monkeypatch):
    train, sampler = (train_unet, unet_sampler) if kind == "unet" else (train_cnn, cnn_sampler)
    monkeypatch.setattr(loop, "best_device", lambda: torch.device("cpu"))  # CUDA sums in no fixed order
    in_place = train(sampler(), 3).state_dict()
    monkeypatch.setattr(loop, "helpers", lambda device, steps: 2)
    ahead = train(sampler(), 3).state_dict()
    assert all(torch.equal(v, ahead[name]) for name, v in in_place.items())


def test_a_helper_that_fails_is_told_of(unet_sampler):
    sampler = unet_sampler()
    sampler.hard = np.array([[7, 25, 25, 5]])  # there is no such scan
    with Batches(sampler, 3, STEPS, helpers=1) as batches, pytest.raises(IndexError, match="out of range"):
        for step in range(STEPS):
            batches.of(step)
    assert not multiprocessing.active_children()


def test_a_mapped_file_goes_to_another_process_by_name_and_a_part_of_it_whole(tmp_path):
    array = np.arange(30_000, dtype=np.float32).reshape(30, 20, 50)
    np.save(tmp_path / "c.npy", array)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    for name in "cf":
        mapped = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        sent = ForkingPickler.dumps(mapped)
        assert len(sent) < 1000 and np.array_equal(pickle.loads(sent), array)
        for part in (mapped[3:], mapped[:, ::2], mapped.T):
            assert np.array_equal(pickle.loads(ForkingPickler.dumps(part)), part)
    private = np.load(tmp_path / "c.npy", mmap_mode="c")
    private[0] = 7  # in memory alone
    assert np.array_equal(pickle.loads(ForkingPickler.dumps(private)), private)


def test_helpers_are_the_threads_that_a_long_training_on_cuda_has(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    for threads, expected in ((1, 0), (2, 2), (3, 3), (16, batches_module.MOST_HELPERS)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert helpers(torch.device("cuda"), WORTH_STEPS) == expected
        assert helpers(torch.device("cuda"), WORTH_STEPS - 1) == helpers(torch.device("cpu"), WORTH_STEPS) == 0
