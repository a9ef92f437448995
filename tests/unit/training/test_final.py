"""The two networks of a release, trained side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.unet import build_unet
from cmb_models.training.data.examples import load_training, save_example
from cmb_models.training.data.samplers import UnetSampler
from cmb_models.training.final import FinalJob, run_final_job, train_both
from cmb_models.training.initial import INITIAL, Initial, write_initial, write_state
from cmb_models.training.loop import train_cnn, train_unet
from cmb_models.training.precision import best_device, describe_compute
from cmb_models.training.validation.jobs import (
    OutOfFoldCandidates,
    cnn_sampler,
    job_seed,
    load_candidates,
    save_candidates,
    unet_checkpoint,
)
from tests.support.examples import CNN, UNET, example
from tests.support.refused import refused
from tests.support.trainings import assert_equal

SHORT_UNET = UNET.model_copy(update={"steps": 4, "batch": 1})
SHORT_CNN = CNN.model_copy(update={"steps": 4, "batch": 4, "dropout": 0.3})
SPLIT = {"folds": {"s_a": 0, "s_b": 1}, "locked": [], "locked_sha256": []}
SEED = 5


@pytest.fixture
def site(tmp_path):
    """Two prepared scans, and candidates in each by a network that was trained on the other."""
    for name, other, where in (("a", "b", (10, 12, 16)), ("b", "a", (20, 14, 12))):
        scan = replace(example([where], key=f"s_{name}"), subject=f"s_{name}", sha256=name * 64)
        save_example(tmp_path / "prepared", scan, "")
        index = np.array([[20, 20, 5], [8, 22, 9]])
        found = OutOfFoldCandidates(scan.key, frozenset({f"s_{other}"}), index, index.astype(float), np.array([0.7, 0.4]))
        save_candidates(tmp_path / "candidates", found)
    return tmp_path


def test_networks_trained_side_by_side_are_those_trained_alone(site, monkeypatch):
    monkeypatch.setenv("CMB_CORES", "2")  # one thread for each of the two: sums are ordered by the number of threads
    *models, compute = train_both(SHORT_UNET, SHORT_CNN, site / "prepared", site / "candidates", SPLIT, SEED)
    assert compute == describe_compute(best_device())
    examples, mined = load_training(site / "prepared", SPLIT), load_candidates(site / "candidates")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        unet = train_unet(UnetSampler(examples, SHORT_UNET), job_seed(SEED, 1))
        cnn = train_cnn(cnn_sampler(examples, mined, SHORT_CNN), job_seed(SEED, 2))
    finally:
        torch.set_num_threads(threads)
    for model, alone in zip(models, (unet, cnn), strict=True):
        assert_equal(model.state_dict(), alone.state_dict())


def test_both_networks_start_from_the_initial_weights(site):
    torch.manual_seed(9)
    source = {"unet": build_unet(UNET.channels, UNET.strides), "cnn": PatchClassifier(CNN.channels, CNN.dropout)}
    for name, network in source.items():
        write_state(site / f"weights/{name}.npz", network.state_dict())
    write_initial(site / "prepared" / INITIAL, {"name": "7"}, site / "weights")
    slow = {"learning_rate": 1e-9, "weight_decay": 0.0}
    unet, cnn = SHORT_UNET.model_copy(update=slow), SHORT_CNN.model_copy(update=slow)
    *models, _ = train_both(unet, cnn, site / "prepared", site / "candidates", SPLIT, SEED)
    for model, start in zip(models, source.values(), strict=True):
        for one, other in zip(model.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_checkpoint_is_of_one_start_alone(site):
    examples = load_training(site / "prepared", SPLIT)
    fresh = unet_checkpoint(site / "studies", SHORT_UNET, SEED, examples)
    started = unet_checkpoint(site / "studies", SHORT_UNET, SEED, examples, Initial({}, "ab" * 32, "7"))
    assert fresh.path != started.path


def test_candidates_of_a_network_that_knew_the_scan_are_refused_in_the_worker_too(site):
    index = np.array([[20, 20, 5]])
    save_candidates(
        site / "candidates", OutOfFoldCandidates("s_a", frozenset({"s_a", "s_b"}), index, index.astype(float), np.array([0.7]))
    )
    job = FinalJob(site / "prepared", site / "candidates", SPLIT, SHORT_CNN, SEED)
    with refused("leakage", got="s_a"):
        run_final_job(job)
