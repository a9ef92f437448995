"""Veins: trees that obey Murray's law, their share of each voxel, and the places where they look like microbleeds."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_models.phantom.grid import Grid
from cmb_models.phantom.head.template import load_template
from cmb_models.phantom.veins.forest import CAP_MM, CORTICAL, KINDS, MURRAY_SPREAD, SINUS, Veins
from cmb_models.phantom.veins.raster import cross_sections, draw_veins, junctions, vein_fraction


class Still:
    """A head that is the template."""

    def to_head(self, template_mm: np.ndarray) -> np.ndarray:
        return np.asarray(template_mm)


@pytest.fixture(scope="module")
def veins() -> Veins:
    return draw_veins(np.random.default_rng(0), load_template())


def one_vein(points, radius_mm: float) -> Veins:
    points = np.asarray(points, float)
    n = len(points)
    return Veins(points, np.arange(-1, n - 1), np.zeros(n, int), np.full(n, radius_mm), np.full(n, CORTICAL, np.int8))


def line(to, steps: int = 40) -> np.ndarray:
    """(steps + 1, 3): from (20, 20, 20) mm to there."""
    return np.array([20.0, 20, 20]) + np.linspace(0, 1, steps + 1)[:, None] * (np.asarray(to, float) - 20)


def test_every_vein_starts_on_its_parent_and_leads_to_a_root(veins):
    goes_on = ~veins.is_first
    assert np.all(veins.previous[goes_on] == np.flatnonzero(goes_on) - 1)
    pieces = np.linalg.norm(veins.points_mm[veins.pieces[1]] - veins.points_mm[veins.pieces[0]], axis=1)
    assert pieces.min() > 0 and pieces.max() < 2.5  # steps are 0.8 mm: none leaps to a parent far away
    assert np.all(veins.previous < np.arange(len(veins.previous)))
    here = np.arange(len(veins.previous))
    for _ in range(len(here)):
        if not np.any(veins.previous[here] >= 0):
            break
        here = np.where(veins.previous[here] >= 0, veins.previous[here], here)
    roots, drained = np.unique(here, return_counts=True)
    assert len(roots) == 4  # two transverse sinuses, two Sylvian veins
    assert set(veins.kind[roots]) == {SINUS, CORTICAL} and drained.min() > 200
    assert veins.drawn["sinus_veins"] == 4 and all(veins.drawn[f"{k}_veins"] > 0 for k in KINDS)
    assert sum(veins.drawn.values()) == veins.is_first.sum()


def test_branchings_obey_murrays_law(veins):
    """r0^3 = r1^3 + r2^3, up to MURRAY_SPREAD of what the branches bring; what continues is 0 at a free end that branches."""
    parent, branch = veins.junctions
    cubes = veins.radius_mm**3
    joins = np.bincount(parent, cubes[branch], len(cubes))
    follows = np.append(~veins.is_first[1:], False)
    goes_on = np.where(follows, np.append(cubes[1:], 0), 0)
    at = np.unique(parent[follows[parent]])
    assert len(at) > 800
    excess = (cubes - goes_on - joins)[at]
    assert np.all(np.abs(excess) <= MURRAY_SPREAD * joins[at] + 1e-9)
    assert np.abs(excess / joins[at]).max() > 0.05  # the tolerance is drawn, not nought


def test_veins_taper_and_keep_their_calibre(veins):
    inner = np.flatnonzero(~veins.is_first)
    assert np.all(veins.radius_mm[inner] <= veins.radius_mm[inner - 1] + 1e-9)
    for kind, name in enumerate(KINDS):
        radius = veins.radius_mm[veins.kind == kind]
        assert radius.max() <= CAP_MM[kind] + 1e-9, name
        assert np.median(radius) > 0.15 and radius.min() > 0.05, name
    first = veins.is_first & (veins.previous >= 0)
    assert np.all(veins.radius_mm[first] < 1.04 * veins.radius_mm[veins.previous[first]])  # 0.9^(-1/3) = 1.036


def test_sinuses_lie_where_they_should(veins):
    """Sagittal: at the vertex on the midline. Bridging veins enter it from both sides, eight or more large ones a side."""
    points = veins.points_mm
    sinus = points[(veins.kind == SINUS) & (points[:, 2] > 60)]
    assert np.abs(sinus[:, 0]).max() < 8 and sinus[:, 2].max() > 70
    on_top = veins.is_first & (veins.kind == CORTICAL) & (veins.radius_mm > 0.5)
    on_top &= (veins.kind[veins.previous] == SINUS) & (np.abs(points[veins.previous, 0]) < 8)
    ten_on = np.minimum(np.flatnonzero(on_top) + 10, len(points) - 1)
    assert np.sum(points[ten_on, 0] > 1) >= 8 and np.sum(points[ten_on, 0] < -1) >= 8


def test_same_rng_same_veins():
    template = load_template()
    a, b, c = (draw_veins(np.random.default_rng(seed), template) for seed in (4, 4, 5))
    assert np.array_equal(a.points_mm, b.points_mm) and np.array_equal(a.radius_mm, b.radius_mm)
    assert len(a.points_mm) != len(c.points_mm)


@pytest.mark.parametrize("to", [(20, 20, 50), (50, 20, 20), (45, 38, 33)])
def test_a_straight_vein_holds_pi_r2_l(to):
    """Of 0.6 mm radius, on voxels of 0.8 x 0.8 x 1 mm, at three angles."""
    grid = Grid((80, 80, 60), (0.8, 0.8, 1.0), (0.0, 0.0, 0.0))
    fraction = vein_fraction(one_vein(line(to), 0.6), Still(), grid)
    length = np.linalg.norm(np.array(to) - 20)
    assert fraction.dtype == np.float32 and fraction.max() <= 1
    assert fraction.sum() * 0.64 == pytest.approx(np.pi * 0.36 * length, rel=0.01)


def test_the_share_of_a_voxel_is_exact_below_its_size():
    """A vein of 0.3 mm radius along z, amid a column of voxels: pi 0.09 = 0.283 of each, nothing beside; half each when between."""
    grid = Grid((40, 40, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    amid = vein_fraction(one_vein(line((20, 20, 50)), 0.3), Still(), grid)
    np.testing.assert_allclose(amid[20, 20, 22:49], np.pi * 0.09, rtol=0.15)
    assert amid[19].sum() == amid[21].sum() == 0
    between = vein_fraction(one_vein(line((20, 20, 50)) + [0.5, 0, 0], 0.3), Still(), grid)
    assert between[20].sum() == pytest.approx(between[21].sum(), rel=0.05)


def test_veins_do_not_break_between_slices():
    grid = Grid((80, 80, 60), (0.8, 0.8, 1.0), (0.0, 0.0, 0.0))
    slanted = vein_fraction(one_vein(line((35, 30, 50)), 0.25), Still(), grid)
    across = np.pi * 0.0625 * np.linalg.norm([15, 10, 30]) / 30  # mm3 in a slice of 1 mm
    assert slanted.sum((0, 1))[22:49] * 0.64 == pytest.approx(across, rel=0.1)


def test_two_grids_hold_the_same_blood(veins):
    """Also where veins meet and overlap; a coarse and a fine anisotropic one, over the same box."""
    coarse = Grid((96, 96, 64), (1.0, 1.0, 1.0), (-47.5, -60.5, 0.5))
    fine = Grid((160, 160, 64), (0.6, 0.6, 1.0), (-47.7, -60.7, 0.5))
    held = [vein_fraction(veins, Still(), g).sum() * np.prod(g.spacing_mm) for g in (coarse, fine)]
    assert held[0] == pytest.approx(held[1], rel=0.02) and held[0] > 1000


def test_nothing_outside_the_grid_and_nothing_twice():
    grid = Grid((20, 20, 30), (1.0, 1.0, 1.0), (10.0, 10.0, 10.0))
    vein = one_vein(line((20, 20, 60)), 0.4)  # leaves the box at z = 39.5
    fraction = vein_fraction(vein, Still(), grid)
    assert fraction.sum() == pytest.approx(np.pi * 0.16 * 19.5, rel=0.02)
    assert np.array_equal(fraction, vein_fraction(vein, Still(), grid))
    far = vein_fraction(one_vein(line((20, 20, 60)) + 100, 0.4), Still(), grid)
    assert not far.any()


def test_a_vein_along_the_normal_is_a_dot_and_one_across_is_none():
    along, across = one_vein(line((20, 20, 32), 15), 0.5), one_vein(line((32, 20, 20), 15), 0.5)
    points, radius = cross_sections(along, Still(), np.array([0, 0, 1.0]))
    assert 1 <= len(points) <= 3 and np.all(radius == 0.5)
    np.testing.assert_allclose(points[:, :2], 20)
    assert np.all((points[:, 2] >= 21.5) & (points[:, 2] <= 30.5))
    assert len(cross_sections(across, Still(), np.array([0, 0, 1.0]))[0]) == 0
    assert len(cross_sections(across, Still(), np.array([-2.0, 0, 0]))[0]) >= 1


def test_thin_short_and_slanted_veins_are_no_dots():
    normal = np.array([0, 0, 1.0])
    for vein in (
        one_vein(line((20, 20, 32), 15), 0.3),  # thinner than 0.35 mm
        one_vein(line((20, 20, 22.4), 3), 0.5),  # 2.4 mm long
        one_vein(line((27, 20, 32), 17), 0.5),  # 30 degrees off
    ):
        points, radius = cross_sections(vein, Still(), normal)
        assert points.shape == (0, 3) and radius.shape == (0,)
    assert len(cross_sections(one_vein(line((24, 20, 32), 15), 0.5), Still(), normal)[0]) >= 1  # 18 degrees off


def test_junctions_are_where_thick_branches_leave():
    trunk, thick, thin = line((20, 20, 30), 10), line((28, 20, 20), 10)[1:], line((20, 28, 20), 10)[1:]
    points = np.concatenate([trunk, thick + [0, 0, 5], thin + [0, 0, 8]])
    previous = np.concatenate([np.arange(-1, 10), [5], np.arange(11, 20), [8], np.arange(21, 30)])
    radius = np.repeat([0.7, 0.4, 0.2], [11, 10, 10])
    forked = Veins(points, previous, np.repeat([0, 1, 2], [11, 10, 10]), radius, np.full(31, CORTICAL, np.int8))
    np.testing.assert_allclose(forked.points_mm[forked.junctions[0]], [[20, 20, 25], [20, 20, 28]])
    at, of_parent = junctions(forked, Still())
    np.testing.assert_allclose(at, [[20, 20, 25]])
    np.testing.assert_allclose(of_parent, [0.7])


def test_a_head_has_dots_and_forks_to_label(veins):
    dots, radius = cross_sections(veins, Still(), np.array([0, 0, 1.0]))
    assert len(dots) > 30 and radius.min() >= 0.35
    assert len(junctions(veins, Still())[0]) > 100


def test_no_veins_no_blood_no_dots():
    nothing, grid = one_vein(np.zeros((0, 3)), 0.5), Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert not vein_fraction(nothing, Still(), grid).any()
    assert len(cross_sections(nothing, Still(), np.array([0, 0, 1.0]))[0]) == len(junctions(nothing, Still())[0]) == 0
