"""The fixed filters in front of both networks: high in dark spots, near zero in lines, sheets and large dark regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmb_models.detect import line_filters as filters
from cmb_models.detect.line_filters import ACROSS, IN_PLANE, OBLIQUE, dark_spots
from cmb_models.networks.line_filters import BottomHatFilter

SHAPE = (40, 40, 24)
MIDDLE = (20, 20, 12)
AT = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - MIDDLE  # voxels; 1 x 1 x 2 mm


def spots(dark: np.ndarray) -> np.ndarray:
    """(3, I, J, K) of an image that is 0, and -1 where `dark`."""
    return BottomHatFilter()(torch.from_numpy(-dark.astype(np.float32))[None, None])[0].numpy()


def test_a_ball_is_filled_from_every_side():
    ball = ((AT * (1, 1, 2)) ** 2).sum(-1) <= 2**2
    image, within, everywhere = spots(ball)
    np.testing.assert_array_equal(image, -ball.astype(np.float32))
    assert within[MIDDLE] == everywhere[MIDDLE] == 1
    assert everywhere[~ball].max() == 0  # nothing is ever filled where nothing is dark


@pytest.mark.parametrize("direction", [*IN_PLANE, *ACROSS, *OBLIQUE])
def test_a_line_is_not_filled_along_itself(direction):
    line = np.zeros(SHAPE, bool)
    for step in range(-19, 20):
        voxel = np.add(MIDDLE, np.multiply(direction, step))
        if np.all(voxel >= 0) and np.all(voxel < SHAPE):
            line[tuple(voxel)] = True
    _, within, everywhere = spots(line)
    assert everywhere[MIDDLE] == 0
    assert within[MIDDLE] == (direction[2] != 0)  # seen in one slice alone, a line that crosses it is a spot


def test_sheets_and_large_regions_are_no_spots():
    for dark in (np.abs(AT[..., 0]) <= 1, np.abs(AT[..., 2]) <= 1, (np.abs(AT) <= (8, 8, 6)).all(-1)):
        assert spots(dark)[2][MIDDLE] == 0


def test_a_run_shorter_than_the_line_is_filled_and_one_as_long_is_not():
    """Along i, by lines of 9 voxels: one of 8 is bridged, one of 9 holds the line. All other lines lie across it and fill it."""
    for length, filled in ((8, 1), (9, 0)):
        dark = np.zeros(SHAPE, bool)
        dark[10 : 10 + length, 20, 12] = True
        assert spots(dark)[1][12, 20, 12] == filled


def test_places_move_with_the_image():
    image = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    whole = BottomHatFilter()(image)
    piece = BottomHatFilter()(image[:, :, 3:, 2:, 1:])
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12), slice(8, -8))
    assert torch.equal(whole[:, :, 3:, 2:, 1:][inner], piece[inner])


@pytest.mark.parametrize("shape", [(40, 40, 24), (5, 7, 3), (1, 1, 1), (33, 8, 50)], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_numpy_and_torch_agree_to_the_last_bit(shape, threads):
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    before = image.copy()
    expected = BottomHatFilter()(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_array_equal(dark_spots(image[None, None], threads)[0], expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_many_small_images_are_filtered_each_by_itself_and_other_channels_stay(monkeypatch, channels, count):
    monkeypatch.setattr(filters, "SLAB_VOXELS", 80_000)  # three of them at a time
    patches = np.random.default_rng(0).standard_normal((count, channels, 20, 20, 10), dtype=np.float32)
    got = dark_spots(patches, 2)
    assert got.shape == (count, channels + 2, 20, 20, 10) and got.dtype == np.float32
    np.testing.assert_array_equal(got[:, 3:], patches[:, 1:])
    np.testing.assert_array_equal(
        got, BottomHatFilter()(torch.from_numpy(patches).to(memory_format=torch.channels_last_3d)).numpy()
    )
    for n in range(count):
        np.testing.assert_array_equal(got[n, :3], dark_spots(patches[n : n + 1, :1])[0])
        np.testing.assert_array_equal(got[n], BottomHatFilter()(torch.from_numpy(patches[n : n + 1]))[0].numpy())


def test_the_mirror_of_an_image_is_filtered_to_the_mirror_of_what_it_is_filtered_to():
    image = np.random.default_rng(2).standard_normal((1, 1, 9, 12, 7), dtype=np.float32)
    for axes in ((2,), (3,), (4,), (2, 3)):
        np.testing.assert_array_equal(dark_spots(np.flip(image, axes)), np.flip(dark_spots(image), axes))


def test_slabs_do_not_show(monkeypatch):
    image = np.random.default_rng(1).standard_normal((1, 1, 37, 12, 9), dtype=np.float32)
    whole = dark_spots(image)
    monkeypatch.setattr(filters, "SLAB_VOXELS", 1)  # four planes at a time
    np.testing.assert_array_equal(dark_spots(image), whole)
