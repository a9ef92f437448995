"""Both trainings on a CUDA device: they end, continue after a kill, and answer there as on the CPU. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmb_models.networks.cnn import Score
from cmb_models.networks.unet import Heatmap
from cmb_models.runtime.torch import as_callable
from cmb_models.training.checkpoint import Checkpoint
from cmb_models.training.data.samplers import CnnSampler, UnetSampler, label_candidates
from cmb_models.training.loop import train_cnn, train_unet
from tests.support.examples import CNN, UNET, example

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SCAN = example([(10, 10, 10), (22, 8, 20)])
SCORES = 1e-4  # largest difference of a score between devices; a release may differ from torch by export.parity_tolerance, .001


def unet_sampler():
    return UnetSampler([SCAN], UNET.model_copy(update={"steps": 80, "hard_negative_fraction": 0.5, "hard_negatives_at": (0.4,)}))


def cnn_sampler():
    found = np.array([[25, 25, 5], [5, 25, 9], [10, 10, 5]])
    return CnnSampler([label_candidates(SCAN, found, CNN.match_mm)], CNN)


@pytest.mark.parametrize(("train", "sampler"), [(train_unet, unet_sampler), (train_cnn, cnn_sampler)])
def test_a_training_ends_on_the_device_with_its_weights_averaged(train, sampler):
    state = train(sampler(), 3).state_dict()
    assert all(v.is_cuda for v in state.values())
    assert all(torch.isfinite(v).all() for v in state.values())
    counters = [v for name, v in state.items() if name.endswith("num_batches_tracked")]
    assert counters and all(0 < c.item() <= sampler().settings.steps for c in counters)


@pytest.mark.parametrize(("train", "sampler"), [(train_unet, unet_sampler), (train_cnn, cnn_sampler)])
def test_a_killed_training_goes_on_nearly_to_the_same_weights(train, sampler, tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == sampler().settings.steps // 2:
            raise Killed

    whole = train(sampler(), 3).state_dict()
    with pytest.raises(Killed):
        train(sampler(), 3, kill, Checkpoint(tmp_path / "c.pt", every_s=0))
    report = []
    gone_on = train(sampler(), 3, report.append, Checkpoint(tmp_path / "c.pt", every_s=0)).state_dict()
    assert report == list(range(sampler().settings.steps))
    apart = max((whole[n].float() - gone_on[n].float()).abs().max().item() for n in whole)
    print(f"largest difference of a weight: {apart:.2g}")
    assert apart < 0.01  # 0 on an H100; with other batches from half-way on .13 and more


def test_scores_on_the_device_are_those_on_the_cpu():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 1, 64, 64, 32), dtype=np.float32)
    patches = rng.standard_normal((7, 1, *CNN.patch_vox), dtype=np.float32)
    unet, cnn = Heatmap(train_unet(unet_sampler(), 3)), Score(train_cnn(cnn_sampler(), 3))
    for model, array in ((unet, image), (cnn, patches)):
        there = as_callable(model, torch.device("cuda"))(array)
        here = as_callable(model.cpu(), torch.device("cpu"))(array)
        apart = np.abs(there - here).max()
        print(f"largest difference of a score: {apart:.2g}, of scores up to {here.max():.2f}")
        assert here.max() > 0.005 and apart < SCORES
