"""Lesions' physics and sizes against theory and against what was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.phantom.config import phase_per_ppm
from cmb_models.phantom.lesions import bodies
from cmb_models.phantom.lesions.bloom import bloom_ratio, body_radius_mm
from cmb_models.phantom.lesions.lesion import Lesion
from cmb_models.phantom.scanner import images
from cmb_models.phantom.scanner.acquisition import cut_kspace
from cmb_models.phantom.scanner.slab import Slab
from tests.support.phantoms import alone, at, body, lone_slab, voxel

ACQUISITIONS = {  # spacing mm, field T, echo ms, window of the phase filter over the field of view per mm
    "1x1x2, 3 T": ((1.0, 1.0, 2.0), 3.0, 20.0, 64 / 200),
    "0.8x0.8x3, 3 T": ((0.8, 0.8, 3.0), 3.0, 20.0, 64 / 205),
    "0.9x0.9x4, 1.5 T": ((0.9, 0.9, 4.0), 1.5, 40.0, 96 / 200),
    "0.5x0.5x1, 7 T": ((0.5, 0.5, 1.0), 7.0, 15.0, 96 / 190),
}


@pytest.fixture
def spheres(monkeypatch):
    """Bodies are perfect spheres."""
    monkeypatch.setattr(bodies, "AXES_SIGMA", 0.0)
    monkeypatch.setattr(bodies, "DENT", 0.0)


def test_bloom_factors_of_facts():
    """Section 3 of the facts: 1.19, 1.50 and 1.90 at 1, 2 and 4 ppm, 3 T, 20 ms."""
    assert [round(bloom_ratio(c, phase_per_ppm(3.0, 20.0)), 2) for c in (1, 2, 4)] == [1.19, 1.50, 1.90]
    assert bloom_ratio(-2, 2.0) == bloom_ratio(2, 2.0)


@pytest.mark.parametrize(("chi_ppm", "factor"), [(1.0, 1.19), (2.0, 1.50), (4.0, 1.90)])
def test_phase_at_the_equator_reaches_pi_at_the_bloom_radius(spheres, chi_ppm, factor):
    """a (chi gamma B0 TE / 3 pi)^(1/3) for a sphere of 3.5 mm, within half a voxel of 0.5 mm."""
    slab = lone_slab((0.5, 0.5, 0.5))
    phase = np.angle(alone(slab, replace(body(radius_mm=3.5, chi_ppm=chi_ppm), centre_mm=voxel(slab, (64, 64, 64)))))
    for line in (phase[64:96, 64, 64], phase[64:32:-1, 64, 64], phase[64, 64:96, 64]):
        inwards = np.unwrap(line[::-1])  # from far, where the phase is small
        n = np.argmax(inwards < -np.pi)  # the first voxel beyond; linearly between it and the one before
        beyond = (inwards[n] + np.pi) / (inwards[n] - inwards[n - 1])
        assert 0.5 * (31 - n + beyond) == pytest.approx(3.5 * factor, abs=0.25)


def test_calcification_is_dark_with_the_opposite_phase():
    slab = lone_slab()
    bleed, calcium = alone(slab, body()), alone(slab, body("mimic:calcification", chi_ppm=-1.0))
    middle, pole, equator = (0.0, 0.0, 0.0), (0.0, 0.0, 5.0), (5.0, 0.0, 0.0)
    assert at(np.abs(bleed), slab, middle) < 0.5 and at(np.abs(calcium), slab, middle) < 0.5
    assert at(np.angle(bleed), slab, pole) > 0.1 > -0.1 > at(np.angle(calcium), slab, pole)
    assert at(np.angle(bleed), slab, equator) < -0.1 < 0.1 < at(np.angle(calcium), slab, equator)


def test_lesion_phase_beyond_the_bloom_is_the_dipole_of_its_volume():
    """At 6 mm above a body as large as a 2 mm sphere, of 1 ppm: 2/3 ppm (2/6)^3 = 0.0247 ppm, 0.396 rad, whatever its dents."""
    slab = lone_slab()
    phases = [at(np.angle(alone(slab, body(seed=seed))), slab, (0.0, 0.0, 6.0)) for seed in range(6)]
    assert np.mean(phases) == pytest.approx(0.396, abs=0.05)
    assert min(phases) > 0.25 and max(phases) < 0.55


def test_seen_volume_doubles_when_the_echo_time_does(spheres):
    """docs/explanation/phantom.md: theory 2.0, in vivo 2.30 +- 1.19."""
    short, long = (
        np.sum(np.abs(alone(lone_slab((0.5, 0.5, 0.5), te_ms=te), body(radius_mm=1.5, chi_ppm=2.0))) < 0.5) for te in (20, 40)
    )
    assert 1.8 < long / short < 2.2


def test_lesion_changes_nothing_far_away():
    slab = lone_slab()
    signal = alone(slab, body(radius_mm=1.0, chi_ppm=2.0))
    assert np.array_equal(signal[:20], np.ones_like(signal[:20]))


def test_a_lesion_without_a_body_adds_nothing():
    slab = lone_slab()
    assert np.all(alone(slab, body("mimic:vein", radius_mm=0.0)) == 1)


def test_dipole_follows_b0_in_a_tilted_slab(spheres):
    """B0 along the slab's (0, sin 30, cos 30): the pole's phase is there, +0.396 rad at 6 mm, half of it and negative across."""
    slab = lone_slab(oblique_deg=(30.0, 0.0, 0.0))
    phase = np.angle(alone(slab, body()))
    pole, across = np.array([0.0, 0.5, np.sqrt(0.75)]), np.array([0.0, -np.sqrt(0.75), 0.5])
    assert at(phase, slab, 6 * pole) == pytest.approx(0.396, abs=0.04)
    assert at(phase, slab, 6 * across) == pytest.approx(-0.198, abs=0.03)


def test_a_body_is_turned_with_the_head():
    """A tilted slab sees the same flow void along the same direction of the head."""
    slab = lone_slab((0.5, 0.5, 0.5), oblique_deg=(30.0, 0.0, 0.0))
    dark = np.abs(alone(slab, body("mimic:flow_void", 0.8, 0.0, along_mm=(0.0, 0.0, 8.0))))
    along = slab.to_head.rotation.inv().apply([0.0, 0.0, 1.0])
    assert at(dark, slab, 3.0 * along) < 0.4 and at(dark, slab, -3.0 * along) < 0.4
    assert at(dark, slab, (0.0, 0.0, 3.0)) > 0.8  # the slab's own z is 1.5 mm off the tube there


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 3.0), (1.0, 1.0, 2.0)])
def test_finer_grids_give_the_same_image(spacing):
    """1 mm and 0.5 mm, cut to the same voxels."""
    lesion = replace(body(radius_mm=1.1, chi_ppm=1.5, seed=3), centre_mm=(0.3, 0.2, 0.4))
    coarse, fine = (lone_slab(spacing, fine_mm=step) for step in (1.0, 0.5))
    one, other = (cut_kspace(alone(s, lesion), s.acquired.shape) for s in (coarse, fine))
    assert np.abs(one).min() < 0.5
    assert np.abs(one - other).max() < 0.06


def test_finer_subdivision_gives_the_same_image(monkeypatch):
    slab, lesion = lone_slab(), body(radius_mm=1.1, chi_ppm=1.5, seed=3)
    usual = alone(slab, lesion)
    monkeypatch.setattr("cmb_models.phantom.lesions.lesion.STEP_MM", 0.125)
    assert 0 < np.abs(alone(slab, lesion) - usual).max() < 0.08


@pytest.mark.parametrize("label", ["cmb", "mimic:air_bone", "mimic:cavernoma"])
def test_a_lesion_at_the_grids_corner_is_cut_off_there(label):
    """What is left is what the middle of a larger grid has."""
    slab = lone_slab()
    lesion = body(label, 3.0, 1.0)
    corner, whole = (alone(slab, replace(lesion, centre_mm=voxel(slab, 3 * (n,)))) for n in (0, 32))
    np.testing.assert_allclose(corner[:12, :12, :12], whole[32:44, 32:44, 32:44], atol=1e-4)
    assert np.abs(whole[32:44, 32:44, 32:44] - 1).max() > 0.5
    assert np.all(alone(slab, replace(lesion, centre_mm=(100.0, 100.0, 100.0))) == 1)


def test_same_seed_same_body_and_another_seed_another():
    slab = lone_slab()
    one, again, other = (alone(slab, body(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def seen_region(slab: Slab, lesion: Lesion, step_mm: float = 0.2) -> np.ndarray:
    """Where the SWI, linearly between voxels, is below half of what is around: bool, in steps of step_mm."""
    image = cut_kspace(alone(slab, lesion), slab.acquired.shape)
    phase = images.highpass_phase(image, slab.config.highpass_half_width)
    swi = images.swi(np.abs(image), phase)
    line = np.arange(-9, 9, step_mm)
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    return ndimage.map_coordinates(swi, slab.acquired.index(points).T, order=1).reshape((len(line),) * 3) < 0.5


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_microbleeds_are_seen_as_large_as_drawn(acquisition):
    """Diameter of the ball as large as the region whose SWI is below half: within 0.4 mm, on average within 0.15 mm."""
    slab = lone_slab(*ACQUISITIONS[acquisition])
    off = []
    for n, (diameter, chi) in enumerate([(2.0, 0.7), (2.0, 3.0), (2.7, 0.7), (2.7, 3.0), (4.5, 0.7), (4.5, 3.0)]):
        centre = np.random.default_rng(n).uniform(-0.5, 0.5, 3) * slab.config.spacing_mm
        lesion = Lesion("cmb", "", tuple(centre), diameter, body_radius_mm(diameter, chi, slab.config), chi, n)
        off.append(np.cbrt(6 / np.pi * seen_region(slab, lesion).sum()) * 0.2 - diameter)
    assert np.abs(off).max() < 0.4
    assert abs(np.mean(off)) < 0.15


def test_microbleeds_are_seen_about_as_round_as_real_ones():
    """Sphericity pi^(1/3) (6 V)^(2/3) / A about .85."""
    slab, found = lone_slab((0.5, 0.5, 0.8), te_ms=25.0), []
    for seed in range(6):
        lesion = replace(body(radius_mm=body_radius_mm(3.0, 1.5, slab.config), chi_ppm=1.5), seed=seed)
        soft = ndimage.gaussian_filter(seen_region(slab, lesion).astype(float), 1.0)
        area = np.sqrt(sum(np.square(g) for g in np.gradient(soft))).sum()
        found.append(np.pi ** (1 / 3) * (6 * soft.sum()) ** (2 / 3) / area)
    assert np.mean(found) == pytest.approx(0.87, abs=0.07)
    assert min(found) > 0.7
