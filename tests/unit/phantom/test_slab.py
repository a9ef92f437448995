"""Where voxels lie: turned slabs, later visits, and the protocols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import RigidTransform, Rotation

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.head.traits import draw_traits
from cmb_models.phantom.head.warp import draw_warp
from cmb_models.phantom.presets import MIXED, PRESETS, draw_config
from cmb_models.phantom.scanner.slab import SlabWarp, make_slab
from cmb_models.volume import index_from_world
from tests.support.refused import refused

SMALL = PhantomConfig.small()
OBLIQUE = replace(SMALL, oblique_deg=(-15.0, 4.0, 3.0))
POSE = RigidTransform.from_components([2.0, -1.0, 3.0], Rotation.from_rotvec([2.0, -3.0, 1.0], degrees=True))


def test_a_straight_slab_is_the_scanners_own_frame():
    slab = make_slab(SMALL)
    np.testing.assert_allclose(slab.b0, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.diag(slab.affine())[:3], SMALL.spacing_mm)
    middle = slab.affine() @ [*(np.array(SMALL.shape) - 1) / 2, 1]
    np.testing.assert_allclose(middle[:3], SMALL.fov_centre_mm, atol=1e-9)


def test_a_turned_slab_tilts_its_slices_and_keeps_the_field():
    """Turned by -15 degrees about x alone: the field's part along the slices is sin 15."""
    slab = make_slab(replace(SMALL, oblique_deg=(-15.0, 0.0, 0.0)))
    np.testing.assert_allclose(slab.b0, [0, -np.sin(np.deg2rad(15)), np.cos(np.deg2rad(15))], atol=1e-12)
    np.testing.assert_allclose(slab.normal_in_head, [0, np.sin(np.deg2rad(15)), np.cos(np.deg2rad(15))], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(slab.affine()[:3, :3], axis=0), SMALL.spacing_mm)


@pytest.mark.parametrize("pose", [None, POSE])
def test_a_place_has_one_voxel_and_one_world_position(pose):
    """The kept voxel nearest to a place in slab mm is the voxel its world position points to."""
    slab = make_slab(OBLIQUE, pose)
    head = np.array([[30.0, -10.0, 25.0], [50.0, -40.0, 5.0]])
    by_slab = slab.kept_grid.index(slab.from_head(head))
    np.testing.assert_allclose(index_from_world(slab.world_from_head(head), slab.affine()), by_slab, atol=1e-9)
    if pose is None:
        np.testing.assert_allclose(slab.world_from_head(head), head, atol=1e-9)


def test_holds_knows_the_margin():
    slab = make_slab(OBLIQUE)
    centre = np.array(OBLIQUE.fov_centre_mm)
    x = slab.to_head.rotation.apply([1.0, 0.0, 0.0])
    assert slab.holds(np.array([centre, centre + 39 * x, centre + 41 * x]), 8.0).tolist() == [True, True, False]


def test_the_warp_through_a_slab_meets_its_inverse():
    """Whatever way slab and head are turned, a voxel's place in the template leads back to it."""
    rng = np.random.default_rng(4)
    slab = make_slab(OBLIQUE, POSE)
    warp = SlabWarp(draw_warp(rng, draw_traits(rng)), slab)
    grid = slab.fine.coarse(5.0)
    coordinates = warp.template_coordinates(grid)
    voxels = rng.integers(2, 16, (60, 3))
    at = voxels * np.array(grid.spacing_mm) + grid.origin_mm
    away = np.linalg.norm(warp.to_head(coordinates[(slice(None), *voxels.T)].T.astype(float)) - at, axis=1)
    assert away.max() < 0.05


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_draw_possible_scans(preset):
    for seed in range(25):
        config = draw_config(preset, np.random.default_rng(seed))
        assert config == draw_config(preset, np.random.default_rng(seed))
        assert PhantomConfig.from_json(config.as_json()) == config
        assert config.name == preset
        if preset != "small":
            assert config.fov_mm[0] >= 185 and config.fov_mm[1] >= 215 and config.fov_mm[2] >= 85  # heads are 170 x 200 mm


def test_presets_are_what_their_names_say():
    """docs/explanation/phantom.md: voxels and echo times of the named studies."""
    ukb, aibl, clinical, seven = (draw_config(p, np.random.default_rng(0)) for p in ("ukb", "aibl", "clinical", "7t"))
    assert ukb.spacing_mm == (0.8, 0.8, 3.0) and ukb.te_ms == 20 and ukb.field_t == 3 and ukb.shape == (256, 288, 48)
    assert aibl.spacing_mm == pytest.approx((0.94, 0.94, 1.75), abs=0.01) and aibl.te_ms == 20 and aibl.field_t == 3
    assert clinical.spacing_mm[2] == 4 and clinical.field_t == 1.5
    assert seven.field_t == 7 and seven.fov_mm[2] == 100
    assert set(MIXED) <= set(PRESETS)


def test_a_protocol_can_be_changed_and_stays_whole():
    changed = draw_config("ukb", np.random.default_rng(0), spacing_mm=(0.7, 0.7, 2.0), te_ms=30.0, field_t=7.0, generation=2)
    assert changed.generation == 2 and draw_config("ukb", np.random.default_rng(0)).generation == 1
    assert changed.spacing_mm == (0.7, 0.7, 2.0) and changed.te_ms == 30 and changed.tr_ms == 37 and changed.field_t == 7
    np.testing.assert_allclose(changed.fov_mm, (204.8, 230.4, 144), atol=1.0)
    thick = draw_config("clinical", np.random.default_rng(0), spacing_mm=(3.0, 3.0, 3.0))
    assert thick.highpass_vox == min(thick.shape[:2])  # 96 would be more than there is
    assert changed.snr == draw_config("ukb", np.random.default_rng(0)).snr


def test_random_scans_differ_in_everything():
    drawn = [draw_config("random", np.random.default_rng(n)) for n in range(60)]
    for name in ("field_t", "te_ms", "spacing_mm", "snr", "resolved", "highpass_vox", "mask_power", "vendor", "orientation"):
        assert len({getattr(c, name) for c in drawn}) >= 3, name
    assert all(10 <= c.te_ms <= 40 and 0.45 <= c.spacing_mm[0] <= 1 and 1 <= c.spacing_mm[2] <= 4 for c in drawn)


def test_a_third_of_the_random_scans_are_brain_extracted_from_generation_2_on():
    both = [[draw_config("random", np.random.default_rng(n), generation=g) for n in range(100)] for g in (1, 2)]
    first, second = ([c.stripped_mm for c in drawn] for drawn in both)
    margins = [m for m in second if m is not None]
    assert set(first) == {None} and 25 <= len(margins) <= 45 and min(margins) >= -0.5 and max(margins) <= 2
    assert [replace(c, generation=1, stripped_mm=None) for c in both[1]] == both[0]


def test_an_unknown_preset_is_refused():
    with refused("phantom-setting"):
        draw_config("siemens", np.random.default_rng(0))


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1.0, 1.0, 9.0)},
        {"spacing_mm": (0.0, 1.0, 2.0)},
        {"spacing_mm": (float("nan"), 1.0, 2.0)},
        {"te_ms": 0.0},
        {"stripped_mm": 20.0},
        {"te_ms": 200.0},
        {"te_ms": float("nan")},
        {"field_t": -3.0},
        {"snr": float("nan")},
        {"fov_mm": (96.5, 96.0, 80.0)},
        {"fov_mm": (8.0,) * 3},
        {"fov_centre_mm": (0.0, float("nan"), 0.0)},
        {"guard_mm": (0.0, 0.0, -1.0)},
        {"oblique_deg": (80.0, 0.0, 0.0)},
        {"resolved": (1.0, 0.2, 1.0)},
        {"highpass_vox": 4},
        {"mask_power": 20},
        {"motion_mm": 50.0},
        {"bias": 3.0},
        {"fine_mm": 2.0},
        {"vendor": "acme"},
        {"orientation": "XYZ"},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(change):
    with refused("phantom-setting", case=f"phantom .*{next(iter(change))}"):
        replace(SMALL, **change)
