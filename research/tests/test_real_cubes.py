"""Cubes from three planes: equal to the planes on them, true for functions of the radius, and what networks make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.detect.preprocess import normalise
from cmb_models.errors import InputError
from cmb_models.release.bundle import load_bundle
from cmb_models.volume import world_from_index
from research.real_cubes.control import KnownCube, cut_cube, inside
from research.real_cubes.cube import assemble, middle_planes, one_scale
from research.real_cubes.figures import auc, share
from research.real_cubes.measure import FOLDER, control_figures, measure, real_figures
from research.real_cubes.scoring import SiteScore, head_scale, prepared_cube, scale_of, scorer
from research.real_planes.images import SIDE, Planes, Site, Slice
from research.stages import ROOT
from tests.support.bundles import make_bundle, settings

DATA = ROOT / "../shared/data"
OFFSET = np.arange(SIDE) - SIDE // 2
X, Y, Z = np.meshgrid(OFFSET, OFFSET, OFFSET, indexing="ij")
RADIUS = np.sqrt(X**2 + Y**2 + Z**2)


def lesion(depth=80.0, level=100.0, sigma=3.0, squash=1.0):
    """A cube with a dark Gaussian spot in its middle, longer along z by `squash`."""
    return (level - depth * np.exp(-(X**2 + Y**2 + (Z / squash) ** 2) / (2 * sigma**2))).astype(np.float32)


def test_the_cube_equals_the_planes_on_the_planes():
    planes = middle_planes(100 + 10 * np.sin(X / 5) + 3 * Y * np.cos(Z / 7) + X * Z / 20)
    cube = assemble(planes)
    assert cube.shape == (SIDE, SIDE, SIDE) and cube.dtype == np.float32
    assert np.allclose(middle_planes(cube), planes, atol=1e-3)


def test_planes_that_disagree_meet_in_their_mean():
    cube = assemble(np.stack([np.full((SIDE, SIDE), v) for v in (1.0, 2.0, 4.0)]))
    assert cube[24, 24, 24] == pytest.approx(7 / 3)
    assert cube[30, 24, 24] == pytest.approx(1.5)  # the axial and the coronal plane cross along x
    assert cube[30, 30, 24] == pytest.approx(1.0)


@pytest.mark.parametrize("f", [lambda r: np.cos(r / 6), lambda r: np.exp(-(r**2) / 18)], ids=["wave", "spot"])
def test_what_depends_on_the_radius_alone_is_restored(f):
    cube = assemble(middle_planes(f(RADIUS)))
    within = RADIUS <= SIDE // 2
    assert np.abs(cube - f(RADIUS))[within].max() < 0.02  # linear interpolation: a 64th of the second derivative and more at a spot


def test_along_a_cubes_diagonal_all_planes_count_alike():
    cube = assemble(np.stack([np.full((SIDE, SIDE), v) for v in (3.0, 6.0, 9.0)]))
    assert cube[34, 34, 34] == pytest.approx(6.0)
    # At (4, 4, 1) the squared cotangents are 32 / 1, 17 / 16 and 17 / 16.
    weights = np.array([32.0, 17 / 16, 17 / 16])
    assert cube[28, 28, 25] == pytest.approx(float(weights @ [3, 6, 9] / weights.sum()), abs=1e-4)


def test_planes_are_brought_to_the_axial_scale():
    planes = middle_planes(lesion())
    assert np.allclose(one_scale(planes * np.array([1.0, 0.5, 3.0])[:, None, None]), planes, rtol=1e-5)
    assert not one_scale(np.zeros((3, SIDE, SIDE))).any()


def test_the_scale_is_that_of_the_projects_normalisation():
    rng, preprocess = np.random.default_rng(0), settings().preprocess
    image = np.where(rng.random((60, 60)) < 0.7, rng.normal(100, 10, (60, 60)), 0).astype(np.float32)
    scale = scale_of(image, preprocess)
    expected = normalise(image[None], preprocess, "slice")[0]
    assert np.allclose(((image - scale.median) / scale.width).clip(-4, 4), expected, atol=1e-5)
    assert head_scale(scale).width == pytest.approx(1.1 * 0.96 * scale.median)
    for empty in (np.zeros((5, 5)), np.full((5, 5), 3.0)):
        with pytest.raises(InputError) as error:
            scale_of(empty, preprocess)
        assert error.value.code == "scan-no-head"


def test_a_prepared_cube_has_the_site_at_zero_mm():
    preprocess = settings().preprocess
    prepared = prepared_cube(lesion(), scale_of(np.random.default_rng(0).normal(100, 10, 5000), preprocess), preprocess)
    assert prepared.shape == (24, 24, 12) and prepared.image.shape == (24, 24, 16)  # padded to multiples of 8
    image = prepared.image[:, :, :12]
    darkest = np.argwhere(image == image.min())
    away = np.linalg.norm(world_from_index(darkest, prepared.affine), axis=1)
    assert away.min() < 1.5
    assert (prepared.image[:, :, 12:] == prepared.image.min()).all()


def test_a_dark_spot_scores_above_plain_tissue(tmp_path):
    score = scorer(load_bundle(make_bundle(tmp_path / "bundle")))
    axial = np.random.default_rng(0).normal(100, 10, (80, 80)).astype(np.float32)
    spot, plain = score(lesion(), axial), score(lesion(depth=0), axial)
    assert spot.stage1 > plain.stage1 and spot.stage2 > plain.stage2 and spot.fused > plain.fused
    assert spot.candidate and spot.found(spot.fused) and not spot.found(spot.fused + 1e-6)
    assembled = score(assemble(middle_planes(lesion())), axial)
    assert assembled.fused == pytest.approx(spot.fused, abs=0.01)  # a round lesion loses nothing


def test_without_a_candidate_nothing_is_found():
    assert not SiteScore(0.1, 0.99, 0.9, candidate=False).found(0.5)


def test_a_release_that_needs_phase_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        scorer(load_bundle(make_bundle(tmp_path / "bundle", phase=True)))
    assert error.value.code == "phase-missing"


def test_shares_and_areas_by_hand():
    found = share(["a", "a", "b", "b"], [True, True, False, True])
    assert (found["count"], found["of"], found["share"]) == (3, 4, 0.75)
    assert found["interval_95"] == pytest.approx([0.3006, 1.0], abs=1e-4)  # Wilson's lower end; patient a alone has 2 of 2
    area = auc(["a", "b", "c", "d"], [True, True, False, False], [0.9, 0.5, 0.5, 0.1])
    assert area["auc"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auc(["a"], [True], [0.5]) == {"auc": None, "interval_95": None}


def test_patients_are_the_unit_of_the_intervals():
    scores = [0.9] * 6 + [0.1] * 6
    apart = auc([str(n) for n in range(12)], [True, False] * 6, scores)["interval_95"]
    together = auc(["one"] * 6 + ["other"] * 6, [True, False] * 6, scores)["interval_95"]
    assert together == pytest.approx([0.5, 0.5])  # within each patient CMBs and others score alike
    assert apart[1] - apart[0] > 0.3


def site(patient, kind):
    return Site(Planes(patient, kind, np.zeros((3, SIDE, SIDE), np.float32)), Slice(patient, np.zeros((4, 4))), "1")


def test_figures_of_real_sites_by_hand():
    sites = [site("01", "cmb"), site("01", "cmb"), site("02", "cmb"), site("02", "false_positive")]
    scores = [SiteScore(0.8, 0.9, 0.7, True), SiteScore(0.6, 0.4, 0.3, True), SiteScore(0.0, 0.8, 0.6, False)]
    figures = real_figures(sites, [*scores, SiteScore(0.5, 0.6, 0.5, True)], 0.5)
    assert figures["patients"] == 2
    assert (figures["real_cmb_found"]["count"], figures["real_cmb_found"]["of"]) == (1, 3)
    assert figures["real_false_positives_above_threshold"]["count"] == 1
    assert figures["real_patch_auc"]["auc"] == pytest.approx(2 / 3)
    assert [figures["classifier_above_half"][k]["count"] for k in ("cmb", "false_positive")] == [2, 1]
    assert figures["medians"]["cmb"] == {"sites": 3, "stage1": 0.6, "stage2": 0.8, "fused": 0.6}


def test_control_figures_by_hand():
    known = [KnownCube("s", label, np.zeros((1, 1, 1)), np.zeros((1, 1))) for label in ("cmb", "mimic:vein")]
    true = [SiteScore(0.9, 0.9, 0.9, True), SiteScore(0.2, 0.2, 0.2, True)]
    assembled = [replace(true[0], fused=0.4), true[1]]
    figures = control_figures(known, true, assembled, 0.5)
    assert figures["true"]["cmb"]["above_threshold"] == 1 and figures["assembled"]["cmb"]["above_threshold"] == 0
    assert figures["same_decision"] == {"count": 1, "of": 2}
    assert figures["median_change_of_fused"] == 0.25


def test_a_cube_is_cut_around_its_place():
    i, j, k = np.indices((60, 60, 30))
    volume = (i + 100 * j + 10_000 * k).astype(np.float32)
    cube = cut_cube(volume, np.array([30.0, 31.0, 15.0]))  # voxels of 0.5 x 0.5 x 1 mm
    assert cube[24, 24, 24] == 30 + 3100 + 150_000
    assert cube[25, 24, 24] - cube[24, 24, 24] == pytest.approx(1)
    assert cube[24, 24, 26] - cube[24, 24, 24] == pytest.approx(10_000)
    assert inside(np.array([30.0, 31.0, 15.0]), volume.shape)
    assert not inside(np.array([20.0, 31.0, 15.0]), volume.shape) and not inside(np.array([30.0, 31.0, 20.0]), volume.shape)


@pytest.mark.skipif(not (DATA / FOLDER).is_dir(), reason="the real planes are not here")
def test_real_sites_are_measured(tmp_path):
    figures = measure(load_bundle(make_bundle(tmp_path / "bundle", threshold=0.5)), Path(DATA), control_scans=0)
    assert (figures["patients"], figures["real_cmb_found"]["of"]) == (10, 30)
    assert figures["real_false_positives_above_threshold"]["of"] == 8
    low, high = figures["real_patch_auc"]["interval_95"]
    assert low <= figures["real_patch_auc"]["auc"] <= high
    assert figures["control"] == {} and figures["appearance"]["lesions"] == 30
