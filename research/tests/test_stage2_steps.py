"""The benchmark of stage 2's steps: both ways are trained on the same, and the one without filters sees the image alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmb_models.networks.cnn import PatchClassifier
from cmb_models.networks.line_filters import BottomHatFilter
from cmb_models.training.data.examples import save_example
from cmb_models.training.validation.jobs import CnnJob, OutOfFoldCandidates, save_candidates
from research.stage2_steps import KINDS, Asked, NoFilters, score, trainings
from tests.support.examples import AFFINE, CNN, example


def test_without_filters_the_image_is_all_there_is_and_the_network_as_large():
    patches = torch.randn(2, 2, 8, 8, 4)
    full, bare = BottomHatFilter()(patches), NoFilters()(patches)
    assert full.shape == bare.shape
    assert torch.equal(bare[:, [0, 3]], patches) and torch.equal(full[:, [0, 3]], patches)
    assert not bare[:, 1:3].any() and full[:, 1:3].any()


@pytest.fixture
def workspace(tmp_path):
    """Two prepared scans with two microbleeds each and their candidates, out of fold."""
    (tmp_path / "data/prepared").mkdir(parents=True)
    (tmp_path / "data/candidates").mkdir()
    for subject, other in (("a", "b"), ("b", "a")):
        scan = replace(example([(10, 10, 10), (22, 8, 20)], key=subject), subject=subject)
        save_example(tmp_path / "data/prepared", scan)
        index = np.array([[10, 10, 5], [22, 8, 10], [25, 25, 5], [5, 25, 9]])
        found = OutOfFoldCandidates(subject, frozenset({other}), index, index @ AFFINE[:3, :3], np.full(4, 0.5, dtype=np.float32))
        save_candidates(tmp_path / "data/candidates", found)
    return tmp_path


def test_every_fold_is_trained_by_every_way_and_number_of_steps(workspace):
    folds = [frozenset({"a"}), frozenset({"b"})]
    asked = trainings(workspace, CNN, folds, [4, 5], 3, 0)
    assert len(asked) == 2 * len(KINDS) * 2 * 3 * len(folds) == len({(a.name, a.job.seed, a.job.held_out) for a in asked})
    with_filters, without = ({(a.job.seed, a.job.held_out) for a in asked if a.filters == f} for f in (True, False))
    assert with_filters == without
    assert all(a.job.training.isdisjoint(a.job.held_out) for a in asked)


def test_filters_are_left_out_of_the_training_that_asks_for_it_and_of_no_other(workspace):
    settings = CNN.model_copy(update={"steps": 3})
    job = CnnJob(workspace / "data/prepared", workspace / "data/candidates", frozenset({"a"}), frozenset({"b"}), settings, 0)
    first, bare, again = (score(Asked("as shipped", filters, job)) for filters in (True, False, True))
    assert set(first) == {"b"} and first["b"].shape == (4,)
    assert np.array_equal(first["b"], again["b"]) and not np.array_equal(first["b"], bare["b"])
    assert isinstance(PatchClassifier((4,), 0.0).spots, BottomHatFilter)
