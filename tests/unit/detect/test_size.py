"""The diameter of spots whose size is known."""

import numpy as np
import pytest

from cmb_models.detect.candidates import diameter_mm


def spot(radius_mm: float, spacing_mm, size_mm: float = 40, centre_mm=None) -> tuple[np.ndarray, np.ndarray]:
    """An image of 0 with a ball of -2, and the ball's centre voxel."""
    shape = [round(size_mm / s) for s in spacing_mm]
    centre = np.array([s // 2 for s in shape]) if centre_mm is None else np.rint(np.array(centre_mm) / spacing_mm).astype(int)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    inside = (((grid - centre) * spacing_mm) ** 2).sum(-1) <= radius_mm**2
    return np.where(inside, -2.0, 0.0).astype(np.float32), centre


@pytest.mark.parametrize("spacing_mm", [(0.5, 0.5, 0.5), (0.8, 0.8, 0.8), (0.5, 0.5, 1.0)])
@pytest.mark.parametrize("diameter", [4.0, 6.0, 8.0])
def test_ball(spacing_mm, diameter):
    image, centre = spot(diameter / 2, spacing_mm)
    # A hard edge moves by up to half a voxel on the grid.
    assert diameter_mm(image, centre, spacing_mm) == pytest.approx(diameter, abs=0.5 * min(spacing_mm))


def test_the_index_may_be_a_voxel_off():
    image, centre = spot(3, (1, 1, 1))
    assert diameter_mm(image, centre + [4, 0, 0], (1, 1, 1)) == diameter_mm(image, centre, (1, 1, 1))


def test_one_voxel():
    image = np.zeros((20, 20, 20), dtype=np.float32)
    image[10, 10, 10] = -2
    # A ball of 1 mm x 1 mm x 2 mm: pi / 6 d^3 = 2.
    assert diameter_mm(image, np.array([10, 10, 10]), (1, 1, 2)) == pytest.approx((12 / np.pi) ** (1 / 3))


def test_a_neighbour_that_does_not_touch_does_not_count():
    image = np.zeros((30, 30, 30), dtype=np.float32)
    image[15, 15, 15] = image[15, 15, 18] = -2
    assert diameter_mm(image, np.array([15, 15, 15]), (1, 1, 1)) == pytest.approx((6 / np.pi) ** (1 / 3))


def test_a_vessel_is_cut_at_the_largest_microbleed():
    image = np.zeros((40, 40, 40), dtype=np.float32)
    image[:, 15:25, 15:25] = -2
    assert diameter_mm(image, np.array([20, 20, 20]), (1, 1, 1)) == 10.0


def test_at_the_corner_of_the_image():
    image, centre = spot(3, (1, 1, 1), centre_mm=(0, 0, 0))
    full, _ = spot(3, (1, 1, 1))
    expected = (6 / np.pi * np.count_nonzero(image)) ** (1 / 3)
    assert diameter_mm(image, centre, (1, 1, 1)) == pytest.approx(expected)
    assert np.count_nonzero(image) < np.count_nonzero(full) / 2


def test_no_darker_than_its_surroundings_is_one_voxel():
    image = np.full((30, 30, 30), -4, dtype=np.float32)
    image[13:18, 13:18, 13:18] = 0
    assert diameter_mm(image, np.array([15, 15, 15]), (1, 1, 1)) == pytest.approx((6 / np.pi) ** (1 / 3))
