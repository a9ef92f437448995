"""Tuning and nested cross-validation give the same numbers here and on 1, 2 or 4 workers of a scheduler, two of them killed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cmb_models.training.validation.jobs import UnetJob, pipeline_config
from cmb_models.training.validation.nested import nested_cross_validate
from cmb_models.training.validation.pool import SCHEDULER
from cmb_models.training.validation.workers import open_workers
from tests.integration.test_nested import SPLIT, SUBJECTS, figures, figures_of, tiny_params, workspace  # noqa: F401 - a fixture
from tests.support.cluster import Cluster, running_cluster, unet_weights

pytestmark = [pytest.mark.ci, pytest.mark.slow, pytest.mark.timeout(600)]


def results(folder) -> dict:
    """Settings and figures of each fold, and a hash of the weights of three trainings."""
    params, prepared = tiny_params(), folder / "prepared"
    folds = nested_cross_validate(params, prepared, SPLIT, folder / "nested", folder / "checkpoints")
    config, everyone = pipeline_config(params, params.cnn), frozenset(SUBJECTS)
    jobs = [UnetJob(prepared, everyone, frozenset(), params.unet, config, seed) for seed in range(3)]
    with open_workers(2) as workers:
        weights = workers.map(unet_weights, jobs, 3 * params.unet.steps, "weights")
    return {"folds": [figures_of(fold) for fold in folds], "metrics": figures(folds), "weights": weights}


def kill_two(cluster: Cluster, folder) -> None:
    """One worker at once and one when the first outer fold is tuned."""
    cluster.workers[0].kill()
    while not (folder / "nested").is_dir():
        time.sleep(0.05)
    cluster.workers[1].kill()


def test_results_do_not_depend_on_the_workers(workspace, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.setenv("CMB_CORES", "2")  # the local pool then runs two trainings of one thread each, as the workers do
    monkeypatch.delenv(SCHEDULER, raising=False)
    expected = results(workspace("here"))
    assert np.isfinite([score for fold in expected["folds"] for _, scores in fold[1] for score in scores]).all()
    assert len(set(expected["weights"])) == 3
    for count, killed in ((1, 0), (2, 0), (4, 0), (4, 2)):
        name = f"{count}-workers-{killed}-killed"
        folder = workspace(name)
        with running_cluster(tmp_path / f"cluster-{name}", count) as cluster:
            monkeypatch.setenv(SCHEDULER, cluster.address)
            killer = threading.Thread(target=kill_two, args=(cluster, folder), daemon=True)
            if killed:
                killer.start()
            found = results(folder)
            assert sum(w.poll() is not None for w in cluster.workers) == killed
        assert found == expected, name
