"""The soak's short form: clients, malformed requests, and a registry that promotes and rolls back under a live server."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.serving.soak import SHAPES, amiss, fault_of, soak, turned
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import index_from_world, world_from_index
from tests.support import pace
from tests.support.bundles import head, make_bundle

pytestmark = [pytest.mark.serving, pytest.mark.slow]


@pytest.mark.ci
def test_releases_change_under_load_and_every_answer_is_a_bundles_own(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    found = soak(tmp_path, seconds=pace.seconds(8), every_s=pace.seconds(2), clients=2, seed=1)
    assert found["faults"] == []
    assert found["answers"] >= 10 and found["switches"] >= 2


def test_turned_scans_show_the_same_places():
    scan = head()
    for n in range(len(SHAPES)):
        other = turned(scan, n)
        index = np.argwhere(other.data == other.data.max())[:1]
        world = world_from_index(index, other.affine)
        back = np.rint(index_from_world(world, scan.affine)).astype(int)[0]
        assert scan.data[tuple(back)] == scan.data.max(), n


def test_a_wrong_answer_would_be_noticed(tmp_path):
    own = BundleDetector(make_bundle(tmp_path / "a"))
    first, moved = own.detect(head()), own.detect(head(seed=4))
    other = BundleDetector(make_bundle(tmp_path / "b", threshold=0.5)).detect(head())
    assert fault_of(first, first) == ""
    assert fault_of(first, other) == "another manifest or threshold"
    assert re.match("[0-9]+ candidates instead of|positions up to|scores up to", fault_of(first, moved))
    assert amiss("INTERNAL: x") and amiss("wordless NOT_FOUND") and not amiss("NOT_FOUND")
