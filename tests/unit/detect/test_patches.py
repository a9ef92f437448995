"""Patches: where the centre goes, and what fills the part beyond the edge."""

import numpy as np

from cmb_models.detect.patches import cut_patches

IMAGE = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7) - 3


def test_the_indexed_voxel_is_at_half_the_size():
    patches = cut_patches(IMAGE, np.array([[2, 3, 3]]), (4, 3, 2))
    assert patches.shape == (1, 1, 4, 3, 2)
    assert patches[0, 0, 2, 1, 1] == IMAGE[2, 3, 3]
    np.testing.assert_array_equal(patches[0, 0], IMAGE[0:4, 2:5, 2:4])


def test_beyond_the_edge_lies_the_lowest_value():
    patch = cut_patches(IMAGE, np.array([[0, 0, 0]]), (3, 3, 3))[0, 0]
    np.testing.assert_array_equal(patch[1:, 1:, 1:], IMAGE[:2, :2, :2])
    assert (patch[0] == -3).all() and (patch[:, 0] == -3).all() and (patch[:, :, 0] == -3).all()


def test_a_centre_far_outside_gives_filling_alone():
    assert (cut_patches(IMAGE, np.array([[50, 50, -50]]), (3, 3, 3)) == -3).all()


def test_no_indices_no_patches():
    patches = cut_patches(IMAGE, np.zeros((0, 3), dtype=np.int64), (3, 4, 5))
    assert patches.shape == (0, 1, 3, 4, 5) and patches.dtype == np.float32
