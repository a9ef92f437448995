"""For any orientation: indices and millimetres go round, and storage order does not matter."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from cmb_models.detect.preprocess import resample
from cmb_models.volume import Volume, index_from_world, world_from_index

numbers = st.floats(-200, 200)
spacings = st.tuples(*[st.floats(0.3, 5)] * 3)


@st.composite
def affines(draw) -> np.ndarray:
    """Rotated, scaled, perhaps mirrored, shifted."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(draw(spacings)) * signs
    affine[:3, 3] = draw(st.tuples(numbers, numbers, numbers))
    return affine


@given(affines(), hnp.arrays(float, st.tuples(st.integers(0, 5), st.just(3)), elements=numbers))
def test_index_to_world_and_back(affine, index):
    np.testing.assert_allclose(index_from_world(world_from_index(index, affine), affine), index, atol=1e-6)


@given(affines(), st.tuples(*[st.integers(1, 5)] * 3))
def test_reorienting_keeps_values_at_their_places_and_does_nothing_twice(affine, shape):
    stored = Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine)
    ras = stored.to_ras()
    again = ras.to_ras()
    np.testing.assert_array_equal(again.data, ras.data)
    np.testing.assert_array_equal(again.affine, ras.affine)
    index = np.argwhere(np.ones(shape))
    there = np.rint(index_from_world(world_from_index(index, affine), ras.affine)).astype(int)
    np.testing.assert_array_equal(ras.data[tuple(there.T)], stored.data[tuple(index.T)])


@given(st.tuples(*[st.integers(1, 30)] * 3), spacings, spacings)
def test_every_resampled_voxel_lies_in_a_voxel_of_the_scan(shape, old, new):
    stored = Volume(np.zeros(shape, dtype=np.float32), np.diag([*old, 1.0]))
    grid = resample(stored, new)
    if any(n > o * s for n, o, s in zip(new, old, shape, strict=True)):
        return  # one new voxel is larger than the whole axis
    ends = np.array([np.zeros(3), np.array(grid.data.shape) - 1])
    index = np.rint(index_from_world(world_from_index(ends, grid.affine), stored.affine))
    assert (index >= 0).all() and (index < shape).all()
