"""Reorientation and the way between voxel indices and millimetres."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from cmb_models.volume import Volume, index_from_world, world_from_index

ROTATION = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])  # 37 degrees about z: nearest axes stay x, y, z


def numbered(shape=(3, 4, 5)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def affine_of(matrix, origin=(10, 20, 30)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return affine


def test_world_of_an_index_by_hand():
    affine = affine_of(np.diag([-2, 3, 4]))
    np.testing.assert_array_equal(world_from_index(np.array([[1, 2, 0.5]]), affine), [[10 - 2, 20 + 6, 30 + 2]])
    np.testing.assert_array_equal(index_from_world(np.array([[8, 26, 32]]), affine), [[1, 2, 0.5]])


def test_no_points_stay_no_points():
    for change in (world_from_index, index_from_world):
        assert change(np.zeros((0, 3)), np.eye(4)).shape == (0, 3)


def test_flipped_axis_is_turned_by_hand():
    data = numbered((3, 2, 2))
    ras = Volume(data, affine_of(np.diag([-2.0, 3, 4]))).to_ras()
    np.testing.assert_array_equal(ras.data, data[::-1])
    np.testing.assert_array_equal(ras.affine, affine_of(np.diag([2, 3, 4]), (10 - 2 * 2, 20, 30)))


def test_permuted_axes_are_put_in_order_by_hand():
    # Stored (k, i, j): the first axis runs to the top, the second to the right, the third to the front.
    stored = Volume(numbered((5, 3, 4)), affine_of([[0, 2, 0], [0, 0, 3], [4, 0, 0]]))
    ras = stored.to_ras()
    np.testing.assert_array_equal(ras.data, stored.data.transpose(1, 2, 0))
    assert ras.spacing_mm == (2, 3, 4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("rotation", [np.eye(3), ROTATION], ids=["straight", "oblique"])
def test_every_voxel_keeps_its_place(order, signs, rotation):
    matrix = (rotation * [0.5, 0.7, 2.0] * signs)[:, order]
    stored = Volume(numbered(), affine_of(matrix))
    ras = stored.to_ras()
    index = np.argwhere(np.ones(stored.data.shape))
    there = index_from_world(world_from_index(index, stored.affine), ras.affine)
    np.testing.assert_allclose(there, np.rint(there), atol=1e-9)
    np.testing.assert_array_equal(ras.data[tuple(np.rint(there).astype(int).T)], stored.data[tuple(index.T)])
    assert np.all(np.diag(ras.affine)[:3] > 0)
    np.testing.assert_allclose(ras.spacing_mm, (0.5, 0.7, 2.0))


def test_reorienting_does_not_change_the_argument():
    stored = Volume(numbered(), affine_of(np.diag([-1.0, -1, 1])))
    before = stored.data.copy()
    stored.to_ras().data[:] = -1
    np.testing.assert_array_equal(stored.data, before)


@pytest.mark.parametrize(
    ("data", "affine", "words"),
    [
        (np.zeros((4, 4)), np.eye(4), r"shape \(4, 4\)"),
        (np.zeros((2, 2, 2, 2)), np.eye(4), "expected a volume"),
        (np.zeros((2, 2, 2)), np.eye(3), r"\(4, 4\) affine"),
        (np.zeros((2, 2, 2)), np.diag([1, 1, np.nan, 1]), "finite"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 1, 0, 1]), "invertible"),
        (np.zeros((2, 2, 2), dtype=complex), np.eye(4), "one real number per voxel, got complex128"),
        (np.full((2, 2, 2), "a"), np.eye(4), "one real number per voxel"),
    ],
)
def test_impossible_volumes_are_refused(data, affine, words):
    with pytest.raises(ValueError, match=words):
        Volume(data, affine)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float16, np.float64, ">f4"])
def test_voxels_become_float32(dtype):
    data = np.array([0, 1, 1, 0, 1, 0, 0, 1]).reshape(2, 2, 2)
    volume = Volume(data.astype(dtype), np.eye(4, dtype=int))
    assert volume.data.dtype == np.float32 and volume.affine.dtype == np.float64
    np.testing.assert_array_equal(volume.data, data)


def test_float32_voxels_are_not_copied():
    data = numbered()
    assert Volume(data, np.eye(4)).data is data


def test_equality_is_by_content():
    one = Volume(numbered(), np.eye(4))
    assert one == Volume(numbered(), np.eye(4)) and one == Volume(numbered().astype(int), np.eye(4))
    assert one != Volume(numbered() + 1, np.eye(4)) and one != Volume(numbered(), np.diag([1, 1, 2, 1]))
    assert one != Volume(numbered((3, 4, 4)), np.eye(4)) and one != "a volume"
    hole = np.full((2, 2, 2), np.nan)
    assert Volume(hole, np.eye(4)) == Volume(hole, np.eye(4))
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_repr_is_short_and_describes_the_grid():
    volume = Volume(np.zeros((30, 40, 50)), affine_of(np.diag([-0.8, -0.8, 3])))
    assert repr(volume) == "Volume(shape=(30, 40, 50), spacing=0.8 x 0.8 x 3 mm, orientation=LPS)"


ALL_ORIENTATIONS = [
    "".join(letters[flip] for letters, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for flips in itertools.product((0, 1), repeat=3)
]


@pytest.mark.parametrize("codes", ALL_ORIENTATIONS)
def test_nibabel_round_trip_keeps_every_orientation(codes, tmp_path):
    """All 48 orders and directions of the axes, oblique, in memory and through a file."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    matrix = np.zeros((3, 3))
    for column, (code, side_mm) in enumerate(zip(codes, (0.5, 0.7, 2.0), strict=True)):
        axis, sign = axes[code]
        matrix[axis, column] = sign * side_mm
    volume = Volume(numbered(), affine_of(ROTATION @ matrix))
    assert volume.orientation == codes
    image = volume.to_nibabel()
    assert Volume.from_nibabel(image) == volume
    assert "".join(nib.aff2axcodes(image.affine)) == codes and image.header.get_xyzt_units()[0] == "mm"
    nib.save(image, tmp_path / "a.nii.gz")
    again = Volume.from_nibabel(nib.load(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.affine, volume.affine, rtol=1e-6, atol=1e-6)  # a header holds float32
    assert again.to_ras().orientation == "RAS"


def test_nibabel_scaling_and_trailing_axes():
    image = nib.Nifti1Image(numbered()[..., None].astype(np.int16), np.eye(4))
    assert Volume.from_nibabel(image) == Volume(numbered(), np.eye(4))


@pytest.mark.parametrize(
    ("data", "words"),
    [(np.zeros((2, 2, 2, 3), np.float32), "one 3D volume"), (np.zeros((2, 2, 2), np.complex64), "one real number per voxel")],
)
def test_images_that_are_no_volume_are_rejected(data, words):
    with pytest.raises(ValueError, match=words):
        Volume.from_nibabel(nib.Nifti1Image(data, np.eye(4)))
