"""Microbleeds and mimics: their physics against theory, their sizes, places and counts against what was asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial import KDTree
from scipy.spatial.transform import RigidTransform, Rotation

from cmb_models.errors import InputError
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.head.template import load_template
from cmb_models.phantom.head.traits import draw_traits
from cmb_models.phantom.head.warp import draw_warp
from cmb_models.phantom.lesions import bodies, mimics
from cmb_models.phantom.lesions.bloom import bloom_factor, body_radius_mm
from cmb_models.phantom.lesions.cmbs import CLUSTER_MM, REGION_SHARE, draw_cmbs, draw_diameter_mm
from cmb_models.phantom.lesions.lesion import Lesion, add_lesion, lesion_mask
from cmb_models.phantom.lesions.mimics import draw_mimics
from cmb_models.phantom.lesions.placing import Placer
from cmb_models.phantom.scanner import images
from cmb_models.phantom.scanner.acquisition import cut_kspace
from cmb_models.phantom.scanner.slab import Slab, SlabWarp, make_slab
from cmb_models.phantom.veins.raster import cross_sections, draw_veins, junctions, vein_fraction

PLAIN = PhantomConfig()
ACQUISITIONS = {  # spacing mm, field T, echo ms, window of the phase filter over the field of view per mm
    "1x1x2, 3 T": ((1.0, 1.0, 2.0), 3.0, 20.0, 64 / 200),
    "0.8x0.8x3, 3 T": ((0.8, 0.8, 3.0), 3.0, 20.0, 64 / 205),
    "0.9x0.9x4, 1.5 T": ((0.9, 0.9, 4.0), 1.5, 40.0, 96 / 200),
    "0.5x0.5x1, 7 T": ((0.5, 0.5, 1.0), 7.0, 15.0, 96 / 190),
}


def lone_slab(spacing=(1.0, 1.0, 1.0), field_t=3.0, te_ms=20.0, window=0.32, **more) -> Slab:
    """About 64 mm each way around the origin, without guards."""
    fov = tuple(2 * int(np.ceil(32 / s)) * s for s in spacing)
    config = PhantomConfig(
        spacing_mm=spacing,
        fov_mm=fov,
        fov_centre_mm=(0.0, 0.0, 0.0),
        guard_mm=(0.0, 0.0, 0.0),
        field_t=field_t,
        te_ms=te_ms,
        tr_ms=1000.0,
        highpass_vox=round(window * fov[0]),
        **more,
    )
    return make_slab(config)


def alone(slab: Slab, lesion: Lesion) -> np.ndarray:
    """Complex signal on slab.fine of a lesion amid a signal of 1."""
    signal = np.ones(slab.fine.shape, np.complex64)
    add_lesion(signal, slab, lesion)
    return signal


def body(label: str = "cmb", radius_mm: float = 2.0, chi_ppm: float = 1.0, **more) -> Lesion:
    return Lesion(label, "", (0.0, 0.0, 0.0), 4.0, radius_mm, chi_ppm, **more)


def at(values: np.ndarray, slab: Slab, point_mm) -> np.ndarray:
    """Values on slab.fine at points (..., 3) in slab mm, linearly."""
    index = slab.fine.index(np.reshape(point_mm, (-1, 3))).T
    return ndimage.map_coordinates(values, index, order=1).reshape(np.shape(point_mm)[:-1])


def voxel(slab: Slab, index) -> tuple[float, float, float]:
    """Head mm of a voxel of slab.fine."""
    slab_mm = [slab.fine.axis_mm(a)[n] for a, n in enumerate(index)]
    return tuple(slab.to_head.apply(slab_mm))


@pytest.fixture
def spheres(monkeypatch):
    """Bodies are perfect spheres."""
    monkeypatch.setattr(bodies, "AXES_SIGMA", 0.0)
    monkeypatch.setattr(bodies, "DENT", 0.0)


def test_bloom_factors_of_facts():
    """Section 3 of the facts: 1.19, 1.50 and 1.90 at 1, 2 and 4 ppm, 3 T, 20 ms."""
    assert [round(bloom_factor(c, 3.0, 20.0), 2) for c in (1, 2, 4)] == [1.19, 1.50, 1.90]
    assert bloom_factor(-2, 3.0, 20.0) == bloom_factor(2, 3.0, 20.0)


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
    """FACTS section 3: theory 2.0, in vivo 2.30 +- 1.19."""
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
    phase = images.highpass_phase(image, tuple(slab.config.highpass_vox / 2 / n for n in slab.config.shape[:2]))
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
    """Sphericity pi^(1/3) (6 V)^(2/3) / A about .85 (FACTS section 3)."""
    slab, found = lone_slab((0.5, 0.5, 0.8), te_ms=25.0), []
    for seed in range(6):
        lesion = replace(body(radius_mm=body_radius_mm(3.0, 1.5, slab.config), chi_ppm=1.5), seed=seed)
        soft = ndimage.gaussian_filter(seen_region(slab, lesion).astype(float), 1.0)
        area = np.sqrt(sum(np.square(g) for g in np.gradient(soft))).sum()
        found.append(np.pi ** (1 / 3) * (6 * soft.sum()) ** (2 / 3) / area)
    assert np.mean(found) == pytest.approx(0.87, abs=0.07)
    assert min(found) > 0.7


def test_diameters_are_the_truncated_lognormal():
    rng = np.random.default_rng(0)
    drawn = [draw_diameter_mm(rng, 1.6) for _ in range(2000)]
    whole = stats.lognorm(0.36, scale=2.7)
    low, high = whole.cdf([1.6, 10.0])
    assert stats.kstest(drawn, lambda d: (whole.cdf(d) - low) / (high - low)).pvalue > 0.01


@pytest.fixture(scope="module")
def head():
    """Slab, warp, veins and their share of one plain scan."""
    rng = np.random.default_rng(7)
    slab, warp, veins = make_slab(PLAIN), draw_warp(rng, draw_traits(rng)), draw_veins(rng, load_template())
    return slab, warp, veins, vein_fraction(veins, SlabWarp(warp, slab), slab.fine)


@pytest.fixture(scope="module")
def scans(head) -> list[list[Lesion]]:
    """Fifteen draws of 30 microbleeds in that head."""
    slab, warp, veins, _ = head
    randoms = [np.random.default_rng(seed) for seed in range(15)]
    return [draw_cmbs(rng, Placer(rng, load_template(), warp, [slab], veins), 30, PLAIN) for rng in randoms]


def depth_mm(warp, head_mm) -> np.ndarray:
    template = load_template()
    return -ndimage.map_coordinates(template.brain_mm, template.half.index(warp.to_template(np.array(head_mm))).T, order=1)


def test_regions_have_their_shares(scans):
    regions = [lesion.region for scan in scans for lesion in scan]
    counts = [regions.count(r) for r in REGION_SHARE]
    share = np.array(list(REGION_SHARE.values()))
    assert sum(counts) == 450
    assert stats.chisquare(counts, 450 * share / share.sum()).pvalue > 0.01


def test_the_asked_share_of_cortical_ones_touches_the_brains_edge(head, scans):
    cortical = [lesion for scan in scans for lesion in scan if lesion.region == "cortex_junction" and lesion.placement != "cluster"]
    edge = [lesion for lesion in cortical if lesion.placement == "edge"]
    assert stats.binomtest(len(edge), len(cortical), 0.25).pvalue > 0.01
    depth = depth_mm(head[1], [lesion.centre_mm for lesion in edge])
    assert depth.min() > 0 and depth.max() < 3.4  # 0.5 to 2.5 mm, and half a voxel's diagonal
    others = depth_mm(head[1], [lesion.centre_mm for scan in scans for lesion in scan if lesion.placement != "edge"])
    assert others.min() > 2.1


def test_the_asked_share_lies_beside_a_vein(head, scans):
    slab, _, _, share = head
    some, much = (KDTree(np.argwhere(share > s) * slab.fine.spacing_mm + slab.fine.origin_mm) for s in (0.1, 0.35))
    others = [lesion for scan in scans for lesion in scan if lesion.placement in ("", "beside_vein")]
    beside = [lesion for lesion in others if lesion.placement == "beside_vein"]
    assert 0.05 < len(beside) / len(others) < 0.16  # 12 % of those up to 4 mm, less where a region's veins leave no room
    distance = some.query(slab.from_head(np.array([lesion.centre_mm for lesion in beside])))[0]
    radius = np.array([lesion.diameter_mm / 2 for lesion in beside])
    voxel = 0.9  # half a fine voxel's diagonal: placing looks at the vein's axis, this test at its voxels
    assert distance.min() >= 1.0 - voxel and distance.max() <= 2.5 + voxel
    assert np.all(distance - radius < 0.7 + voxel) and np.median(distance - radius) < 0.6
    plain = np.array([lesion.centre_mm for lesion in others if lesion.placement == ""])
    assert much.query(slab.from_head(plain))[0].min() >= 1.5 - voxel


def test_clusters_keep_their_distance(scans):
    clustered = [scan for scan in scans if any(lesion.placement == "cluster" for lesion in scan)]
    assert 1 <= len(clustered) <= 10  # 30 % of 15
    for scan in clustered:
        centres = np.array([lesion.centre_mm for lesion in scan])
        for n, lesion in enumerate(scan):
            if lesion.placement == "cluster":
                away = np.linalg.norm(centres[:n] - centres[n], axis=1)
                assert np.any((away > CLUSTER_MM[0]) & (away < CLUSTER_MM[1]))


def test_same_seed_same_lesions(head, scans):
    slab, warp, veins, _ = head
    rng = np.random.default_rng(0)
    assert draw_cmbs(rng, Placer(rng, load_template(), warp, [slab], veins), 30, PLAIN) == scans[0]


@pytest.mark.parametrize("seed", range(3))
def test_forty_microbleeds_are_forty_components_in_thick_tilted_slices(head, seed):
    """At two time points, the second with the head turned by some degrees; none is cut by the field of view."""
    config = PhantomConfig(
        spacing_mm=(0.9, 0.9, 4.0), fov_mm=(198.0, 225.0, 128.0), fov_centre_mm=(0.0, -17.0, 12.0), oblique_deg=(-10.0, 2.0, 0.0)
    )
    pose = RigidTransform.from_components([2.0, -1.0, 3.0], Rotation.from_euler("xyz", [3, -2, 4], degrees=True))
    slabs = [make_slab(config), make_slab(config, pose)]
    rng = np.random.default_rng(seed)
    cmbs = draw_cmbs(rng, Placer(rng, load_template(), head[1], slabs, None), 40, config)
    for slab in slabs:
        mask = lesion_mask(cmbs, slab)
        assert ndimage.label(mask > 0, np.ones((3, 3, 3)))[1] == 40
        assert np.array_equal(np.unique(mask), np.arange(41))
        faces = [np.take(mask, end, axis=axis) for axis in range(3) for end in (0, -1)]
        assert not any(face.any() for face in faces)


@pytest.mark.parametrize(
    ("away_mm", "diameter_mm", "free"),
    [
        ((7.9, 0, 0), 2.0, False),  # 8 mm between centres
        ((8.1, 0, 0), 2.0, True),
        ((0, 0, 8.5), 5.0, False),  # 3.5 mm between balls: less than the slice
        ((0, 0, 13.1), 5.0, True),  # 8.1 mm: a slice is empty wherever the slices lie
        ((8.1, 0, 0), 10.0, False),  # large ones keep 8 + (10 - 6) / 2 mm, and 2 voxels between 5 and 1 mm
        ((10.1, 0, 0), 10.0, True),
    ],
)
def test_places_are_apart_in_millimetres_and_in_voxels(head, away_mm, diameter_mm, free):
    slab = lone_slab((0.9, 0.9, 4.0))
    placer = Placer(np.random.default_rng(0), load_template(), head[1], [slab], None)
    assert placer.place(np.zeros((1, 3)), 2.0 if diameter_mm == 10 else diameter_mm) == 0
    assert placer.place(np.array([[1.0, 1.0, 1.0], away_mm]), diameter_mm) == (1 if free else None)


def test_mask_is_the_ball_and_at_least_a_voxel():
    """A ball of 5 mm at a voxel's centre holds the 81 integer points with x^2 + y^2 + z^2 <= 6.25."""
    slab = lone_slab()
    i, j, k = 20, 30, 40
    centre = tuple(slab.kept_grid.axis_mm(a)[n] for a, n in enumerate((i, j, k)))
    large, small = (replace(body(), centre_mm=centre, diameter_mm=d) for d in (5.0, 0.2))
    mask = lesion_mask([large], slab)
    assert mask.sum() == 81 and mask[i + 2, j + 1, k + 1] == 1 and mask[i + 2, j + 2, k] == 0
    mask = lesion_mask([replace(large, centre_mm=(500.0, 0.0, 0.0)), small], slab)
    assert mask[i, j, k] == 2 and mask.sum() == 2
    assert not lesion_mask([], slab).any()


def test_a_count_that_does_not_fit_is_refused(head):
    config = PhantomConfig.small()
    slab, rng = make_slab(config), np.random.default_rng(0)
    placer = Placer(rng, load_template(), head[1], [slab], None)
    assert draw_cmbs(rng, placer, 0, config) == []
    with pytest.raises(InputError, match="room for 900 microbleeds in one scan, got room for"):
        draw_cmbs(rng, placer, 900, config)


@pytest.fixture(scope="module")
def drawn_mimics(head, scans) -> list[tuple[list[Lesion], list[Lesion]]]:
    """Microbleeds and mimics of twenty draws."""
    slab, warp, veins, _ = head
    drawn = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        placer = Placer(rng, load_template(), warp, [slab], veins)
        cmbs = draw_cmbs(rng, placer, 5, PLAIN)
        drawn.append((cmbs, draw_mimics(rng, placer.continued(rng), PLAIN, veins, warp, slab.normal_in_head, 75.0)))
    return drawn


def test_mimics_of_all_kinds_are_drawn_and_stored_as_json(drawn_mimics):
    kinds = {"calcification", "vein", "vein_branch", "iron", "air_bone", "cavernoma", "flow_void"}
    rows = [lesion for _, found in drawn_mimics for lesion in found]
    assert {lesion.label for lesion in rows} == {f"mimic:{kind}" for kind in kinds}
    assert json.loads(json.dumps([asdict(lesion) for lesion in rows]))[0]["label"] == rows[0].label
    assert 0 < sum(lesion.label == "mimic:cavernoma" for lesion in rows) <= 6  # 10 % of 20 scans


def test_mimics_keep_away_from_microbleeds_and_from_each_other(drawn_mimics):
    for cmbs, found in drawn_mimics:
        centres = np.array([lesion.centre_mm for lesion in (*cmbs, *found)])
        away = np.linalg.norm(centres[:, None] - centres, axis=-1) + 100 * np.eye(len(centres))
        assert away.min() >= 6.0
        assert len(found) <= 25


def test_veins_are_marked_where_veins_are(head, drawn_mimics):
    slab, warp, veins, _ = head
    for label, (points, radius) in (
        ("mimic:vein", cross_sections(veins, warp, slab.normal_in_head)),
        ("mimic:vein_branch", junctions(veins, warp)),
    ):
        marked = [lesion for _, found in drawn_mimics for lesion in found if lesion.label == label]
        off, which = KDTree(points).query([lesion.centre_mm for lesion in marked])
        assert off.max() < 1e-6
        np.testing.assert_allclose([lesion.diameter_mm for lesion in marked], 2.2 * radius[which])
        assert all(2.0 <= lesion.diameter_mm <= 5.0 and lesion.radius_mm == 0 for lesion in marked)
        assert depth_mm(warp, [lesion.centre_mm for lesion in marked]).min() > 3.9


def test_iron_lies_on_both_sides_and_comes_with_age(head):
    slab, warp, veins, _ = head
    counts = {}
    for age in (40.0, 60.0, 90.0):
        counts[age] = 0
        for seed in range(12):
            rng = np.random.default_rng(seed)
            placer = Placer(rng, load_template(), warp, [slab], None)
            found = draw_mimics(rng, placer, PLAIN, veins, warp, slab.normal_in_head, age)
            spots = [lesion for lesion in found if lesion.label == "mimic:iron"]
            sides = warp.to_template(np.array([s.centre_mm for s in spots]).reshape(-1, 3))[:, 0]
            assert abs(np.sign(sides).sum()) <= 1  # one may lack room
            counts[age] += len(spots)
    assert counts[40.0] == 0 < counts[60.0] < counts[90.0]


def test_air_lies_outside_the_brain_and_is_seen_within(head, drawn_mimics):
    pockets = [lesion for _, found in drawn_mimics for lesion in found if lesion.label == "mimic:air_bone"]
    seen = np.array([lesion.centre_mm for lesion in pockets])
    air = seen + [lesion.body_from_seen_mm for lesion in pockets]
    assert np.all(depth_mm(head[1], seen) > 0.2) and np.all(depth_mm(head[1], seen) < 2.5)
    assert np.all(depth_mm(head[1], air) < 0.4)


def test_cavernoma_is_bright_within_a_dark_rim():
    slab = lone_slab((0.5, 0.5, 0.5))
    dark = np.abs(alone(slab, body("mimic:cavernoma", 5.0, 0.4, seed=1)))
    away = np.linalg.norm(np.stack(np.meshgrid(*(slab.fine.axis_mm(a) for a in range(3)), indexing="ij")), axis=0)
    assert dark[away < 2.5].max() > 1.0 and dark[away < 2.5].min() < 0.5  # popcorn
    core, rim, around = (dark[(away > low) & (away < high)].mean() for low, high in ((0, 2.5), (4, 4.5), (10, 12)))
    assert rim < 0.5 < core - 0.1 and around == pytest.approx(1.0, abs=0.03)


def test_flow_void_is_dark_without_phase():
    slab = lone_slab((0.5, 0.5, 0.5))
    signal = alone(slab, body("mimic:flow_void", 1.0, 0.0, along_mm=(6.0, 0.0, 0.0)))
    assert at(np.abs(signal), slab, (0.0, 0.0, 0.0)) < 0.3 and at(np.abs(signal), slab, (2.5, 0.0, 0.0)) < 0.4
    assert at(np.abs(signal), slab, (0.0, 2.5, 0.0)) > 0.85
    assert np.abs(signal.imag).max() < 0.05  # 0 but for the one-sided highest frequency of an even number of voxels


def test_arteries_and_air_sites_lie_where_they_can_be_seen():
    template = load_template()
    for points in mimics.ARTERIES.values():
        assert ndimage.map_coordinates(template.brain_mm, template.half.index(np.array(points)).T, order=1).max() < -1
    edge = np.argwhere(np.abs(template.brain_mm) < 1) * template.half.spacing_mm + template.half.origin_mm
    for site in mimics.AIR_SITES_MM.values():
        assert np.sum(np.linalg.norm(edge - site, axis=1) < mimics.AIR_SITE_MM) > 10
