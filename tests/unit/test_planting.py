"""Planted lesions: dark, round, of the size drawn, inside the head."""

from __future__ import annotations

import numpy as np

from cmb_models.training.planting import DEPTH, DIAMETER_MM, places_inside, plant

SPACING = (1.0, 1.0, 2.0)
AIR = -1.0


def test_a_planted_lesion_darkens_its_place_and_leaves_the_rest():
    tissue = np.zeros((24, 24, 12), dtype=np.float32)
    for seed in range(20):
        planted = plant(tissue, np.array([11.6, 12.3, 6.2]), SPACING, AIR, np.random.default_rng(seed))
        darkest = np.array(np.unravel_index(planted.argmin(), planted.shape))
        assert np.abs((darkest - (11.6, 12.3, 6.2)) * SPACING).max() <= 1.6
        assert AIR <= planted.min() < 0.5 * DEPTH[0] * AIR
        assert abs(planted[0, 0, 0]) < 1e-3 and planted.max() <= 0
    assert not tissue.any()


def test_the_seen_size_is_within_the_range_drawn_from():
    tissue = np.zeros((40, 40, 40), dtype=np.float32)
    sizes = []
    for seed in range(40):
        planted = plant(tissue, np.array([20.0, 20.0, 20.0]), (0.5, 0.5, 0.5), AIR, np.random.default_rng(seed))
        volume_mm3 = (planted < planted.min() / 2).sum() * 0.5**3
        sizes.append(2 * (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3))
    assert min(sizes) > 0.85 * DIAMETER_MM[0] and max(sizes) < 1.1 * DIAMETER_MM[1]
    assert max(sizes) > 2 * min(sizes)


def test_places_are_tissue_deep_inside_the_head():
    index = np.stack(np.meshgrid(*map(np.arange, (96, 96, 48)), indexing="ij"), -1) * SPACING
    radius_mm = np.linalg.norm(index - (48, 48, 48), axis=-1)
    head = np.where(radius_mm < 44, 0.0, AIR).astype(np.float32)
    head[40:56, 40:56, 20:28] = -0.9  # a large vessel
    places = places_inside(head, SPACING, AIR)
    assert len(places) > 100
    assert (radius_mm[tuple(places.T)] < 44 - 8).all()  # 12 mm, less what a coarse grid of 4 and 8 mm can be off
    assert (head[tuple(places.T)] == 0).all()
    assert places_inside(np.full((16, 16, 8), AIR, dtype=np.float32), SPACING, AIR).shape == (0, 3)
