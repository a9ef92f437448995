"""From a scan to the working grid: places stay where they are, intensities lose their scale."""

import numpy as np
import pytest

from cmb_models.config.params import Preprocess
from cmb_models.detect.preprocess import normalise, prepare, resample
from cmb_models.volume import Volume, world_from_index
from tests.support.bundles import head
from tests.support.refused import refused

SETTINGS = Preprocess(spacing_mm=(1, 1, 2), multiple_vox=(16, 8, 4), foreground_fraction=0.15, clip=4)
OBLIQUE = np.array([[0.8, -0.6, 0, -31], [0.6, 0.8, 0, 12], [0, 0, 1.0, 5], [0, 0, 0, 1]])


def ball(affine: np.ndarray, at_mm: np.ndarray, shape=(48, 48, 48)) -> Volume:
    """A Gaussian of 3 mm on zero, at a place in the world."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    world = world_from_index(index, affine)
    return Volume(np.exp(-((world - at_mm) ** 2).sum(-1) / 18).reshape(shape).astype(np.float32), affine)


def centre_of_mass(volume: Volume) -> np.ndarray:
    index = np.argwhere(np.ones(volume.data.shape))
    return np.average(world_from_index(index, volume.affine), axis=0, weights=volume.data.ravel())


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.9, 2), (1.5, 1.5, 3), (0.5, 0.5, 0.5), (1, 1, 1.7), (2, 1, 1)])
@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1, 1]), OBLIQUE], ids=["straight", "oblique"])
def test_resampling_keeps_world_positions(spacing_mm, affine):
    at_mm = world_from_index(np.array([[22.3, 25.1, 23.6]]), affine)[0]
    grid = resample(ball(affine, at_mm), spacing_mm)
    np.testing.assert_allclose(grid.spacing_mm, spacing_mm)
    assert np.linalg.norm(centre_of_mass(grid) - at_mm) < 0.1


def test_resampling_keeps_the_field_of_view():
    grid = resample(Volume(np.zeros((40, 30, 20), dtype=np.float32), np.diag([1.0, 1, 2, 1])), (0.5, 2, 2))
    assert grid.data.shape == (80, 15, 20)
    # Voxel edges at -0.5 mm: the first new centre lies half a new voxel inside.
    np.testing.assert_allclose(grid.affine[:3, 3], [-0.5 + 0.25, -0.5 + 1, 0])


def test_half_a_voxel_too_much_is_dropped():
    # 14 voxels of 0.5 mm are 3.5 of 2 mm. A fourth would be centred at index 13.5, the far edge of the scan's last voxel.
    grid = resample(Volume(np.zeros((14, 8, 8), dtype=np.float32), np.diag([0.5, 2, 2, 1])), (2, 2, 2))
    assert grid.data.shape == (3, 8, 8)


def test_nearly_the_same_spacing_is_left_alone():
    volume = head()
    assert resample(volume, (1.005, 0.995, 2.01)) is volume


def test_making_coarser_averages_so_that_small_spots_stay_visible():
    data = np.zeros((40, 40, 40), dtype=np.float32)
    data[20, 20, 20] = 1
    coarse = [resample(Volume(np.roll(data, shift, axis=0), np.eye(4)), (4, 4, 4)).data.max() for shift in range(4)]
    assert min(coarse) > 0.2 * max(coarse) > 0


@pytest.mark.parametrize("scale", [0.001, 3.7, 1e5])
def test_normalising_does_not_depend_on_the_scale(scale):
    data = head().data
    np.testing.assert_allclose(normalise(data * np.float32(scale), SETTINGS, "s"), normalise(data, SETTINGS, "s"), atol=1e-4)


def test_normalised_values_by_hand():
    # 9 voxels of air to each of tissue would shift a mean over all; 1001 tissue voxels run evenly from 100 to 200.
    data = np.zeros((10, 1001), dtype=np.float32)
    data[0] = np.linspace(100, 200, 1001)
    image = normalise(data.reshape(10, 1001, 1), SETTINGS, "s").ravel()
    # Median 150, 5th percentile 105, 95th 195: a range of 90.
    assert image[500] == pytest.approx(0, abs=1e-6)
    assert image[0] == pytest.approx(-50 / 90) and image[1000] == pytest.approx(50 / 90)
    assert image[1001] == pytest.approx(-150 / 90)


def test_outliers_are_clipped():
    data = head().data.copy()
    data[40, 40, 16] = 1e6
    image = normalise(data, SETTINGS, "s")
    assert image.max() == 4 and image.min() >= -4 and image.dtype == np.float32


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.pad(np.ones((9, 9, 9), dtype=np.float32), 30), "729 voxels above the background"),
        (np.pad(np.full((30, 30, 30), 5, dtype=np.float32), 10), "one single intensity"),
    ],
    ids=["too small a head", "a mask"],
)
def test_what_cannot_be_normalised(data, words):
    with refused("scan-no-head", got=words) as raised:
        normalise(data, SETTINGS, "scan 7")
    assert raised.value.case == "scan 7"


def test_padding_comes_after_the_image_and_is_dark():
    volume = head(shape=(75, 80, 30), blobs_mm=())
    prepared = prepare(volume, SETTINGS, "s")
    assert prepared.shape == (75, 80, 30) and prepared.image.shape == (80, 80, 32)
    np.testing.assert_array_equal(prepared.affine, volume.affine)
    inside = prepared.image[:75, :, :30]
    assert (prepared.image[75:] == inside.min()).all() and (prepared.image[:, :, 30:] == inside.min()).all()
    np.testing.assert_array_equal(inside, normalise(volume.data, SETTINGS, "s"))


def test_the_scan_is_left_as_it_was():
    volume = head()
    before = volume.data.copy()
    prepare(volume, SETTINGS, "s").image[:] = 9
    np.testing.assert_array_equal(volume.data, before)
