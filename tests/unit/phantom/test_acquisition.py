"""What the scanner does to a signal: k-space, noise, motion; and the images made from it."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.phantom.config import VENDORS, PhantomConfig
from cmb_models.phantom.scanner.acquisition import complex_signal, cut_kspace, draw_drift_mm, scan_signal
from cmb_models.phantom.scanner.images import highpass_phase, minimum_projection, phase_numbers, stored, swi
from cmb_models.volume import index_from_world, world_from_index

QUIET = {"sigma": 0.0}


def block() -> np.ndarray:
    """A bright block in (12, 64, 32) complex64."""
    signal = np.zeros((12, 64, 32), np.complex64)
    signal[:, 20:44, 10:22] = 1
    return signal


def test_cutting_kspace_keeps_places_and_values():
    """Band-limited waves: fewer samples of the very same function."""
    at = np.arange(48) / 48
    wave = np.exp(2j * np.pi * 3 * at) + 0.5
    cut = cut_kspace(np.broadcast_to(wave, (2, 2, 48)).astype(np.complex64), (2, 2, 24))
    np.testing.assert_allclose(cut[1, 1], wave[::2], atol=1e-5)
    odd = cut_kspace(np.broadcast_to(wave[:, None], (2, 48, 2)).astype(np.complex64), (2, 16, 2))
    np.testing.assert_allclose(odd[1, :, 1], wave[::3], atol=1e-5)


def test_spread_of_phase_costs_signal_as_a_sinc():
    """A ramp of 1.5 rad a voxel keeps sin(0.75) / 0.75 = 0.909 of the signal."""
    ramp = np.broadcast_to(1.5 * np.arange(9, dtype=np.float32), (3, 3, 9)).copy()
    assert np.abs(complex_signal(np.ones_like(ramp), ramp))[1, 1, 4] == pytest.approx(0.909, abs=0.005)


def test_a_perfect_scanner_gives_the_signal_back():
    signal = block()
    assert np.array_equal(scan_signal(np.random.default_rng(0), signal, signal.shape, **QUIET), signal)


@pytest.mark.parametrize("resolved", [(1.0, 1.0, 1.0), (1.0, 0.75, 0.8)])
@pytest.mark.parametrize("slices", [32, 16])
def test_noise_is_as_strong_as_asked(resolved, slices):
    """sigma in each channel, whatever was cut or left unsampled; a Rayleigh magnitude has a mean of 1.253 sigma."""
    empty = np.zeros((24, 64, 32), np.complex64)
    image = scan_signal(np.random.default_rng(0), empty, (24, 64, slices), 0.05, resolved)
    assert image.real.std() == pytest.approx(0.05, rel=0.03) == pytest.approx(image.imag.std(), rel=0.05)
    assert np.abs(image).mean() == pytest.approx(1.253 * 0.05, rel=0.03)


def test_unsampled_kspace_rings_at_edges():
    """Gibbs: an edge overshoots by 8.95 % of its height however much is sampled."""
    image = np.abs(scan_signal(np.random.default_rng(0), block(), (12, 64, 32), resolved=(1.0, 0.6, 1.0), **QUIET))
    assert image[6, 20:44, 16].max() == pytest.approx(1.09, abs=0.03)
    assert 0.02 < image[6, :16, 16].max() < 0.15  # ripples outside, too


def test_a_head_that_lies_elsewhere_all_the_time_is_seen_there():
    moved = scan_signal(np.random.default_rng(0), block(), (12, 64, 32), drift_vox=np.tile([3.0, -2.0], (64, 1)), **QUIET)
    np.testing.assert_allclose(np.abs(moved), np.roll(np.abs(block()), (3, -2), (1, 2)), atol=1e-4)


def test_a_head_that_drifts_ghosts_along_j_and_stays_in_place():
    rng = np.random.default_rng(1)
    drift = draw_drift_mm(rng, 64, 1.5)
    assert drift.shape == (64, 2) and np.abs(drift).max() == pytest.approx(1.5) and np.all(drift[32] == 0)
    image = np.abs(scan_signal(rng, block(), (12, 64, 32), drift_vox=drift, **QUIET))
    j = (image * np.arange(64)[:, None]).sum() / image.sum()
    assert j == pytest.approx(31.5, abs=1.0)
    assert image[:, :16].max() > 0.02  # nothing is there without the drift
    assert np.all(draw_drift_mm(rng, 64, 0.0) == 0)


def test_highpass_keeps_a_spot_and_drops_a_slope():
    slope = np.broadcast_to(2 * np.pi * 2 * np.arange(128)[:, None, None] / 128, (128, 128, 1))  # two wraps over the image
    phase = slope.copy()
    phase[64, 64] += 0.8
    filtered = highpass_phase(np.exp(1j * phase).astype(np.complex64), (0.15, 0.15))
    assert filtered[64, 64, 0] == pytest.approx(0.8, abs=0.05)
    assert np.abs(filtered[20:40]).max() < 0.05


def test_a_wider_highpass_window_takes_more_of_a_broad_phase():
    bump = 0.5 * np.exp(-((np.arange(128)[:, None, None] - 64) ** 2 + (np.arange(128)[None, :, None] - 64) ** 2) / (2 * 8**2))
    left = [highpass_phase(np.exp(1j * bump).astype(np.complex64), (w, w))[64, 64, 0] for w in (16 / 128, 48 / 128)]
    assert 0 <= left[1] < left[0] / 2


@pytest.mark.parametrize("power", [3, 4])
def test_swi_darkens_positive_phase_only(power):
    phase = np.array([-3.0, 0.0, np.pi / 2, np.pi], np.float32).reshape(4, 1, 1)
    expected = [100, 100, 100 / 2**power, 0]
    np.testing.assert_allclose(swi(np.full((4, 1, 1), 100.0, np.float32), phase, power).ravel(), expected, atol=1e-3)


def test_minimum_projection_reaches_sixteen_millimetres():
    image = np.full((3, 3, 40), 10.0, np.float32)
    image[1, 1, 20] = 2
    for slice_mm, slices in ((2.0, 8), (4.0, 4), (20.0, 1)):
        assert (minimum_projection(image, slice_mm)[1, 1] == 2).sum() == slices
        assert minimum_projection(image, slice_mm)[0, 0].min() == 10


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS"])
def test_stored_voxels_lie_where_they_lay(orientation):
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    affine = np.array([[0.9, -0.1, 0, -20], [0.1, 0.9, 0.2, 3], [0, -0.2, 3.0, 8], [0, 0, 0, 1]])
    volume = stored(data, affine, orientation)
    assert [int(np.sign(volume.affine[a, a])) for a in range(3)] == [1 if c in "RAS" else -1 for c in orientation]
    index = np.argwhere(data > 0.9)
    back = np.rint(index_from_world(world_from_index(index, affine), volume.affine)).astype(int)
    assert np.array_equal(volume.data[tuple(back.T)], data[tuple(index.T)])


def test_vendors_store_the_same_phase_in_their_own_numbers():
    """A quarter turn: 2048 of +-4096 one way round, -1571 thousandths the other, 1024 of +-2048."""
    quarter = np.full((1, 1, 1), np.pi / 2, np.float32)
    numbers = {name: phase_numbers(quarter, PhantomConfig(vendor=name)).item() for name in VENDORS}
    assert numbers == {"siemens_like": 2048, "ge_like": -1571, "philips_like": 1024}
