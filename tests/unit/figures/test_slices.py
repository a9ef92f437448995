"""Slices as grey pixels: where a position lies in them, in which direction, and what lies outside the scan."""

import numpy as np
import pytest

from cmb_models.figures.slices import cut_plane, cut_slice
from cmb_models.figures.views import View
from cmb_models.volume import Volume

WINDOW = (0.0, 1.0)


def centroid(grey: np.ndarray) -> tuple[float, float]:
    """Brightness-weighted mean position (x, y) in pixels from the left and upper edges."""
    rows, columns = np.indices(grey.shape)
    weight = grey.astype(float) / grey.sum()
    return float((weight * (columns + 0.5)).sum()), float((weight * (rows + 0.5)).sum())


@pytest.mark.parametrize("pixel_mm", [0.25, 0.5, 2.0])
def test_a_voxel_lies_where_the_picture_says(pixel_mm):
    plane = np.zeros((40, 30), np.float32)
    plane[25:27, 10] = 1  # its middle: 25.5 * 0.5 mm across, 10 * 2 mm up
    picture = cut_plane(plane, np.array([0.5, 2.0]), WINDOW, np.array([2.0, 18.0]), np.array([8.0, 40.0]), pixel_mm)
    assert picture.grey.shape == (32 / pixel_mm, 16 / pixel_mm)
    x, y = picture.place(12.75, 20.0)
    assert (x, y) == (18.0 - 12.75, 40.0 - 20.0)
    assert centroid(picture.grey) == pytest.approx((x / pixel_mm, y / pixel_mm), abs=0.15 / pixel_mm)


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    data = np.zeros((20, 20, 20), np.float32)
    data[15, 17, 12] = 1  # right, front and top of the middle
    data[:, :, 0] = 0.5  # so that the window is not empty
    view = View(Volume(data, np.eye(4)))
    middle = (np.array([-0.5, 19.5]),) * 2
    for normal, index, (column, row) in ((2, 12, (4, 2)), (1, 17, (4, 7)), (0, 15, (2, 7))):
        grey = cut_slice(view, normal, index, *middle, 1.0).grey
        found = np.unravel_index(np.argmax(grey[:18]), (18, 20))
        assert (found[1], found[0]) == (column, row)


def test_outside_of_the_scan_is_black():
    picture = cut_plane(np.ones((4, 4), np.float32), np.ones(2), WINDOW, np.array([-10.0, 10.0]), np.array([-10.0, 10.0]), 0.5)
    assert picture.grey.max() == 255 and (picture.grey[:, :8] == 0).all() and (picture.grey[-16:] == 0).all()
    far = cut_plane(np.ones((4, 4), np.float32), np.ones(2), WINDOW, np.array([50.0, 60.0]), np.array([50.0, 60.0]), 0.5)
    assert far.grey.shape == (20, 20) and not far.grey.any()


def test_a_slice_beyond_the_scan_is_the_nearest_one():
    data = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    view, limits = View(Volume(data, np.eye(4))), (np.array([-0.5, 2.5]),) * 2
    np.testing.assert_array_equal(cut_slice(view, 2, 9, *limits, 1.0).grey, cut_slice(view, 2, 2, *limits, 1.0).grey)


def test_a_window_without_width_is_no_error():
    flat = np.full((4, 4), 3.0, np.float32)
    assert not cut_plane(flat, np.ones(2), (3.0, 3.0), np.array([0.0, 3.0]), np.array([0.0, 3.0]), 1.0).grey.any()
