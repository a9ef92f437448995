"""Microbleeds and mimics as they are drawn: sizes, places, counts and kinds follow what was asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial import KDTree
from scipy.spatial.transform import RigidTransform, Rotation

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.head.template import load_template
from cmb_models.phantom.head.traits import draw_traits
from cmb_models.phantom.head.warp import draw_warp
from cmb_models.phantom.isolated_lesion import uniform_swi
from cmb_models.phantom.lesions import mimics
from cmb_models.phantom.lesions.bloom import body_radius_mm
from cmb_models.phantom.lesions.cmbs import BODY, CLUSTER_MM, REGION_SHARE, draw_cmbs, draw_diameter_mm
from cmb_models.phantom.lesions.lesion import Lesion, lesion_mask
from cmb_models.phantom.lesions.mimics import draw_mimics
from cmb_models.phantom.lesions.placing import Placer
from cmb_models.phantom.scanner.slab import SlabWarp, make_slab
from cmb_models.phantom.veins.raster import cross_sections, draw_veins, junctions, vein_fraction
from tests.support.phantoms import alone, at, body, lone_slab
from tests.support.refused import refused

PLAIN = PhantomConfig()


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
    with refused("phantom-no-room"):
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


def test_generations_draw_the_same_places_and_other_bodies(head, scans):
    slab, warp, veins, _ = head
    placer = Placer(rng := np.random.default_rng(0), load_template(), warp, [slab], veins)
    second = draw_cmbs(rng, placer, 30, replace(PLAIN, generation=2))
    first = scans[0]
    assert [(c.centre_mm, c.diameter_mm, c.seed) for c in second] == [(c.centre_mm, c.diameter_mm, c.seed) for c in first]
    assert max(c.chi_ppm for c in second) < min(c.chi_ppm for c in first)
    assert {c.inner_signal for c in first} == {None}
    assert all(0.15 < c.inner_signal < 0.75 for c in second) and len({c.inner_signal for c in second}) == 30


def darkest(generation: int) -> np.ndarray:
    """SWI at the darkest voxel of twelve isolated microbleeds, over that of their surroundings."""
    slab = lone_slab((0.5, 0.5, 1.0), te_ms=24.0, fine_mm=0.5, generation=generation)
    rng, found = np.random.default_rng(3), []
    ppm, inner, factor = BODY[generation]
    for seed in range(12):
        diameter, chi = draw_diameter_mm(rng, 1.6), float(np.exp(rng.uniform(*np.log(ppm))))
        radius, signal = factor * body_radius_mm(diameter, chi, slab.config), float(rng.uniform(*inner))
        found.append(uniform_swi(slab, [Lesion("cmb", "", (0.0,) * 3, diameter, radius, chi, seed, inner_signal=signal)]).min())
    return np.array(found)


def test_microbleeds_of_the_second_generation_are_as_dark_as_real_ones():
    """Real ones: darkest over surroundings 0.32 (0.10 to 0.60) in 30 microbleeds at 3 T and TE 24 ms."""
    first, second = darkest(1), darkest(2)
    assert np.median(first) < 0.1
    assert 0.15 < np.median(second) < 0.45
    assert second.max() < 0.75
