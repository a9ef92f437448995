"""Which voxels belong to a detection: spots of known size, a vein that runs into one, neighbours, and the phantom's lesions."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.detection import Detection
from cmb_models.outputs.extent import instance_labels, volumes_mm3
from cmb_models.volume import Volume

SHAPE = (48, 44, 30)
AFFINES = {
    "RAS": np.diag([0.8, 0.8, 1.5, 1.0]),
    "flipped": np.array([[-0.8, 0, 0, 20], [0, 0, 1.5, -30], [0, -0.8, 0, 10], [0, 0, 0, 1]]),
}


def found(*indices: tuple[int, int, int]) -> list[Detection]:
    return [Detection((0.0, 0.0, 0.0), index, 3.0, 0.9, 0.9, 0.9) for index in indices]


def distance_mm(volume: Volume, index) -> np.ndarray:
    axes = [(np.arange(n) - c) * s for n, c, s in zip(volume.data.shape, index, volume.spacing_mm, strict=True)]
    return np.sqrt(sum(np.square(a) for a in np.ix_(*axes)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def tissue(affine: np.ndarray) -> Volume:
    return Volume(500 + np.random.default_rng(3).normal(0, 10, SHAPE).astype(np.float32), affine)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("diameter", [2.5, 4.0, 8.0])
def test_a_ball_is_found_whole_with_its_volume(affine, diameter):
    volume, centre = tissue(affine), (20, 22, 14)
    ball = distance_mm(volume, centre) <= diameter / 2
    volume.data[ball] = 60
    labels = instance_labels(volume, found(centre))
    assert labels.dtype == np.uint16 and labels.shape == SHAPE and set(np.unique(labels)) == {0, 1}
    assert dice(labels == 1, ball) > 0.95
    assert volumes_mm3(labels, 1, volume)[0] == pytest.approx(np.count_nonzero(labels) * np.prod(volume.spacing_mm))


def test_a_vein_that_runs_into_a_spot_is_left_out():
    volume, centre = tissue(AFFINES["RAS"]), (20, 22, 14)
    spot = distance_mm(volume, centre) <= 2.0
    volume.data[:, 22, 14] = 150  # as dark, one voxel wide, from edge to edge
    volume.data[spot] = 60
    labels = instance_labels(volume, found(centre))
    assert dice(labels == 1, spot) > 0.85


def test_of_two_that_share_a_spot_the_first_has_it_and_no_detections_have_none():
    volume = tissue(AFFINES["RAS"])
    volume.data[distance_mm(volume, (20, 22, 14)) <= 2.0] = 60
    labels = instance_labels(volume, found((20, 22, 14), (21, 22, 14)))
    assert set(np.unique(labels)) == {0, 1}
    assert volumes_mm3(labels, 2, volume)[1] == 0
    assert not instance_labels(volume, []).any() and volumes_mm3(instance_labels(volume, []), 0, volume).shape == (0,)


def test_a_place_without_a_spot_and_one_at_the_border_have_a_voxel_at_least():
    volume = tissue(AFFINES["RAS"])
    labels = instance_labels(volume, found((0, 0, 0), (30, 20, 10)))
    assert np.count_nonzero(labels == 1) >= 1 and np.count_nonzero(labels == 2) >= 1
    assert np.count_nonzero(labels) < 40
