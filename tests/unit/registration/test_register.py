"""Registration of simulated heads whose pose is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cmb_models.errors import InputError
from cmb_models.phantom import PhantomConfig, simulate_subject
from cmb_models.registration import register, resample
from cmb_models.registration.evidence import mapped
from cmb_models.volume import Volume


@pytest.fixture(scope="module")
def visits():
    return simulate_subject(0, (3, 3), PhantomConfig.small())


@pytest.fixture(scope="module")
def found(visits):
    return register(visits[1].swi, visits[0].swi)


def from_slice(volume: Volume, first: int) -> Volume:
    """The slices from `first` on."""
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(volume.data[:, :, first:], affine)


def moved(volume: Volume, degrees: float, mm: float) -> tuple[Volume, np.ndarray]:
    """The scan as of a head that was turned and shifted in the scanner together with its slab, and that movement (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.array([0.6, -0.64, 0.48]) * degrees, degrees=True).as_matrix()
    pose[:3, 3] = np.array([0.48, 0.6, -0.64]) * mm
    return Volume(volume.data, pose @ volume.affine), pose


def centres(scan) -> np.ndarray:
    return np.array([a.centre_mm for a in scan.annotations if a.is_cmb])


def test_lesions_of_a_moved_head_are_found_within_half_a_millimetre(visits):
    before, after = visits
    fixed, pose = moved(after.swi, 10, 15)
    found = register(fixed, before.swi)
    apart = np.linalg.norm(found.to_fixed(centres(before)) - mapped(pose, centres(after)), axis=1)
    assert len(apart) == 3 and apart.max() < 0.5
    assert np.allclose(found.to_moving(found.to_fixed(centres(before))), centres(before))


def test_orientation_and_handedness_of_the_grids_do_not_matter(visits, found):
    before, after = visits
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = before.swi.data.shape[0] - 1
    mirrored = Volume(before.swi.data[::-1].swapaxes(0, 1), before.swi.affine @ flip @ np.eye(4)[[1, 0, 2, 3]])
    assert mirrored.orientation == "ALS"
    # The affine still says where each voxel lies, so that nothing but rounding changes.
    assert np.allclose(register(after.swi, mirrored).moving_to_fixed, found.moving_to_fixed, atol=1e-4)


def test_the_same_scans_give_the_same_transform(visits, found):
    again = register(visits[1].swi, visits[0].swi)
    assert np.array_equal(again.moving_to_fixed, found.moving_to_fixed) and again.detail == found.detail


def test_a_scan_that_covers_half_the_head_is_registered(visits):
    before, after = visits
    apart = np.linalg.norm(register(after.swi, from_slice(before.swi, 20)).to_fixed(centres(before)) - centres(after), axis=1)
    assert apart.max() < 1  # 40 mm of it, and lesions outside


def test_scans_of_other_contrast_are_registered(visits):
    before, after = visits
    apart = np.linalg.norm(register(after.swi, before.magnitude).to_fixed(centres(before)) - centres(after), axis=1)
    assert apart.max() < 0.5


def test_an_affine_registration_finds_another_size(visits):
    swi, grown = visits[0].swi, np.diag([1.08, 1.05, 0.95, 1.0])
    found = register(Volume(swi.data, grown @ swi.affine), swi, "affine")
    corners = np.array([[-30.0, -30, 10], [30, 30, 50]])
    assert np.abs(found.to_fixed(corners) - mapped(grown, corners)).max() < 1
    assert found.kind == "affine" and found.detail > 0.9


def test_noise_is_no_head(visits):
    rng = np.random.default_rng(0)
    one, other = (Volume(np.abs(rng.normal(size=(60, 60, 40))), np.diag([2.0, 2, 2, 1])) for _ in range(2))
    with pytest.raises(InputError) as refused:
        register(one, other)
    assert refused.value.code == "registration-failed" and "wrong pose" in refused.value.got


def test_two_halves_without_a_common_part_are_refused(visits):
    before, after = visits
    lower = Volume(after.swi.data[:, :, :16], after.swi.affine)
    with pytest.raises(InputError) as refused:
        register(lower, from_slice(before.swi, 24), case="halves")
    assert refused.value.code == "registration-failed" and refused.value.case == "halves"


def test_a_constant_scan_has_no_head(visits):
    with pytest.raises(InputError) as refused:
        register(visits[0].swi, Volume(np.zeros((20, 20, 20)), np.eye(4)))
    assert refused.value.code == "registration-failed" and "none in the moving one" in refused.value.got


def test_scans_outside_of_scanner_space_and_with_nan_are_refused(visits):
    swi = visits[0].swi
    with pytest.raises(InputError) as refused:
        register(swi, Volume(swi.data, swi.affine, in_scanner=False))
    assert refused.value.code == "scan-space"
    holed = swi.data.copy()
    holed[3, 3, 3] = np.nan
    with pytest.raises(InputError) as refused:
        register(Volume(holed, swi.affine), swi)
    assert refused.value.code == "scan-not-finite"


def test_without_simpleitk_the_error_names_the_extra(visits, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError) as refused:
        register(visits[0].swi, visits[1].swi)
    assert refused.value.code == "package-missing" and "cmb-models[compare]" in refused.value.remedy


def test_resampling_puts_places_where_the_transform_says():
    # A bright voxel at 10, 10, 10 mm moves by 3, 0, -2 mm.
    data = np.zeros((20, 20, 20))
    data[10, 10, 10] = 8
    shift = np.eye(4)
    shift[:3, 3] = (-3, 0, 2)
    fixed = Volume(np.zeros((15, 15, 15)), np.eye(4))
    drawn = resample(Volume(data, np.eye(4)), fixed, shift)
    assert drawn.data[13, 10, 8] == 8 and drawn.data.sum() == 8 and np.array_equal(drawn.affine, fixed.affine)
    outside = resample(Volume(data, np.eye(4)), fixed, np.eye(4) + np.eye(4, k=3) * 10, outside=np.nan)
    assert np.isnan(outside.data[10:]).all() and np.isfinite(outside.data[:10]).all()
