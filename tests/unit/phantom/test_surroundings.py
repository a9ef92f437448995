"""Microbleeds lie where a reader would mark them: at least half of what is around them in their slice shows as brain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.lesions.surroundings import Surroundings
from cmb_models.phantom.scan import simulate_scan
from cmb_models.phantom.scanner.slab import make_slab
from cmb_models.volume import index_from_world

CONFIG = PhantomConfig.small()


@pytest.fixture(scope="module")
def slab():
    return make_slab(CONFIG)


def half_dark(slab) -> Surroundings:
    """A brain everywhere in view, dark where the slab's x is below 0."""
    grid = slab.kept_grid
    swi = np.full(grid.shape, 100.0, np.float32)
    swi[grid.axis_mm(0) < 0] = 10
    return Surroundings(swi, np.ones(grid.shape, bool), slab)


@pytest.mark.parametrize(("x_mm", "share"), [(-15.0, 0.0), (0.0, 0.5), (15.0, 1.0)])
def test_the_share_is_that_of_the_ring_that_shows_as_brain(slab, x_mm, share):
    got = half_dark(slab).share(slab.to_head.apply([[x_mm, 0.0, 0.0]]), 3.0)
    assert got == pytest.approx([share], abs=0.1)


def test_a_larger_lesion_reaches_farther_into_the_dark(slab):
    at = slab.to_head.apply([[3.0, 0.0, 0.0]])
    small, large = (half_dark(slab).share(at, d)[0] for d in (1.5, 8.0))
    assert small == pytest.approx(1.0) and large < 0.75


def test_places_are_shown_or_not_and_none_gives_none(slab):
    around = half_dark(slab)
    places = slab.to_head.apply([[-15.0, 0.0, 0.0], [15.0, 0.0, 0.0]])
    assert around.show(places, 3.0).tolist() == [False, True]
    assert around.show(np.zeros((0, 3)), 3.0).shape == (0,)


def test_bright_places_outside_the_brain_do_not_count(slab):
    swi = np.full(slab.kept_grid.shape, 100.0, np.float32)
    assert Surroundings(swi, np.zeros(swi.shape, bool), slab).share(slab.to_head.apply([[0.0, 0, 0]]), 3.0) == [0.0]


def seen_around(scan) -> np.ndarray:
    """Share of bright voxels in the ring around each microbleed of the finished scan, by other means than the drawing's."""
    data, affine = scan.swi.data, scan.swi.affine
    level = np.median(data[scan.brain_mask.data > 0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    found = []
    for about in (a for a in scan.annotations if a.is_cmb):
        i, j, k = index_from_world(np.array([about.centre_mm]), affine)[0]
        x, y = np.indices(data.shape[:2])
        away = np.hypot((x - i) * spacing[0], (y - j) * spacing[1])
        first = about.diameter_mm / 2 + spacing[0] / 2
        ring = data[..., round(k)][(away > first) & (away < first + 1.5)]
        found.append(np.mean(ring > 0.65 * level))
    return np.array(found)


@pytest.mark.ci
def test_every_microbleed_of_a_scan_can_be_seen_and_without_the_rule_some_could_not(monkeypatch):
    config = replace(CONFIG, snr=40.0, bias=0.0)
    shown = np.concatenate([seen_around(simulate_scan(seed, 18, config)) for seed in range(2)])
    assert len(shown) == 36 and shown.min() > 0.4  # 0.5 but for noise and whole voxels
    monkeypatch.setattr("cmb_models.phantom.lesions.surroundings.LEAST_SURROUNDED", 0.0)
    anywhere = np.concatenate([seen_around(simulate_scan(seed, 18, config)) for seed in range(2)])
    assert anywhere.min() < 0.3
