"""Whole simulated scans: what they show is where their truth says, whatever the acquisition, and again at a later visit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.phantom import PhantomConfig, golden_scan, simulate_scan, simulate_subject
from cmb_models.phantom.head.contrast import venous_r2star
from cmb_models.phantom.scan import SimulatedScan
from cmb_models.volume import index_from_world
from tests.support.refused import refused

SMALL = PhantomConfig.small()
OBLIQUE = replace(SMALL, oblique_deg=(-15.0, 4.0, 3.0), motion_mm=0.3, vendor="ge_like")
IMAGES = ("swi", "phase", "magnitude", "minip", "brain_mask", "cmb_mask", "mimic_mask", "vein_mask")


def centres(scan: SimulatedScan, label: str = "cmb") -> np.ndarray:
    return np.array([a.centre_mm for a in scan.annotations if a.label == label]).reshape(-1, 3)


def dark_at(scan: SimulatedScan, world_mm: np.ndarray) -> np.ndarray:
    """Darkest of the nearest voxels over the median around, at each place (N, 3): (N,)."""
    data, found = scan.swi.data, []
    for i, j, k in np.rint(index_from_world(world_mm, scan.swi.affine)).astype(int):
        around = np.median(data[i - 6 : i + 7, j - 6 : j + 7, k - 1 : k + 2])
        found.append(data[i - 1 : i + 2, j - 1 : j + 2, k].min() / around)
    return np.array(found)


@pytest.fixture(scope="module")
def scan() -> SimulatedScan:
    return simulate_scan(7, 5, SMALL)


def test_golden_scan_is_the_same_each_time_and_names_its_cmbs():
    volume, phase, places = golden_scan()
    assert volume.data.shape == phase.data.shape == (96, 96, 40) and places.shape == (3, 3)
    index = np.rint(index_from_world(places, volume.affine)).astype(int)
    assert np.all(index > 3) and np.all(index < np.array(volume.data.shape) - 3)
    assert np.array_equal(golden_scan()[0].data, volume.data)


@pytest.mark.parametrize("orientation", ["LAS", "LPS"])
def test_orientation_changes_the_order_of_voxels_and_nothing_else(scan, orientation):
    other = simulate_scan(7, 5, replace(SMALL, orientation=orientation))
    assert other.annotations == scan.annotations
    for name in IMAGES:
        volume, turned = getattr(scan, name), getattr(other, name)
        assert not np.allclose(turned.affine, volume.affine)
        back = turned.to_ras()
        assert np.array_equal(back.data, volume.data)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize("config", [SMALL, OBLIQUE, replace(OBLIQUE, orientation="LPS")], ids=["straight", "oblique", "LPS"])
def test_cmbs_are_dark_where_the_truth_says(config):
    made = simulate_scan(7, 5, config)
    assert len(centres(made)) == 5
    assert dark_at(made, centres(made)).max() < 0.75
    beside = centres(made) + np.linalg.norm(made.swi.affine[:3, 0]) * 5 * made.swi.affine[:3, 0]  # 5 voxels along i: mostly not
    assert np.median(dark_at(made, beside)) > 0.75


@pytest.mark.parametrize("config", [SMALL, OBLIQUE], ids=["straight", "oblique"])
def test_what_a_microbleed_takes_away_lies_around_its_annotation(config):
    """The centre of mass of the difference that microbleeds make is each one's place, without a shift of half a voxel."""
    quiet = replace(config, snr=1e6, motion_mm=0.0)
    without, with_ = simulate_scan(9, 0, quiet), simulate_scan(9, 5, quiet)
    gain = with_.truth["numbers_per_signal"] / without.truth["numbers_per_signal"]
    lost = np.clip(without.swi.data * gain - with_.swi.data, 0, None)
    off = []
    for at in index_from_world(centres(with_), with_.swi.affine):
        i, j, k = np.rint(at).astype(int)
        box = lost[i - 4 : i + 5, j - 4 : j + 5, k - 2 : k + 3]
        middle = [(box.sum(tuple(o for o in range(3) if o != a)) * np.arange(box.shape[a])).sum() / box.sum() for a in range(3)]
        off.append(np.array(middle) + (i - 4, j - 4, k - 2) - at)
    assert np.abs(np.mean(off, axis=0)).max() < 0.3
    assert np.abs(off).max() < 0.6


def test_masks_have_one_component_for_every_cmb(scan):
    """The n-th row's centre carries the number n."""
    labelled = scan.cmb_mask.data.astype(int)
    assert ndimage.label(labelled > 0, np.ones((3, 3, 3)))[1] == 5
    index = np.rint(index_from_world(centres(scan), scan.cmb_mask.affine)).astype(int)
    assert labelled[tuple(index.T)].tolist() == [1, 2, 3, 4, 5]
    mimics = [a for a in scan.annotations if not a.is_cmb]
    assert set(np.unique(scan.mimic_mask.data)) <= set(range(len(mimics) + 1))


def test_masks_of_brain_and_veins_lie_where_they_belong(scan):
    swi, phase, brain, veins = scan.swi.data, scan.phase.data, scan.brain_mask.data > 0, scan.vein_mask.data > 0
    assert 0.3 < brain.mean() < 0.98
    assert np.median(swi[brain]) > 3 * np.median(swi[~brain])
    assert 0.001 < (veins & brain).mean() < 0.1
    assert np.median(swi[veins & brain]) < 0.9 * np.median(swi[brain & ~veins])
    assert phase.min() >= -4096 and phase.max() <= 4096 and np.array_equal(phase, np.rint(phase))


@pytest.mark.parametrize("vendor", ["siemens_like", "ge_like"])
def test_a_brain_extracted_scan_is_the_whole_one_without_what_lies_outside(vendor):
    place = {"fov_centre_mm": (40.0, -17.0, 30.0), "vendor": vendor}  # with skull and scalp at the side
    whole, stripped = (simulate_scan(7, 2, replace(SMALL, **place, stripped_mm=mm)) for mm in (None, 1.0))
    inside, signal = whole.brain_mask.data > 0, whole.magnitude.data > 0
    removed = signal & (stripped.magnitude.data == 0)
    assert stripped.annotations == whole.annotations and removed.sum() > 1000 and not removed[inside].any()
    for name in ("swi", "magnitude", "phase"):
        kept = signal & ~removed
        assert np.array_equal(getattr(stripped, name).data[kept], getattr(whole, name).data[kept])
    assert len(np.unique(stripped.phase.data[removed])) == 1  # the number that stands for a phase of 0
    far = ndimage.distance_transform_edt(~inside, sampling=whole.swi.spacing_mm) > 4
    assert not stripped.swi.data[far].any()


def test_a_scan_without_microbleeds_has_none():
    made = simulate_scan(3, 0, SMALL)
    assert len(centres(made)) == 0 and made.cmb_mask.data.max() == 0


def test_truth_tells_what_was_drawn(scan):
    truth = scan.truth
    assert PhantomConfig.from_json(truth["config"]) == SMALL
    assert [lesion["label"] for lesion in truth["lesions"]] == [a.label for a in scan.annotations]
    assert 50 <= truth["traits"]["age_years"] <= 90 and 0.55 <= truth["veins"]["oxygenation"] <= 0.7
    assert truth["phase"] == {"sign": 1, "radians_per_unit": np.pi / 4096}


@pytest.mark.ci
def test_a_finer_simulation_gives_the_same_scan():
    """The grid simulated on is a means: at 0.67 mm in place of 1 mm the SWI hardly changes, and the lesions do not."""
    quiet = replace(SMALL, snr=1e5)
    coarse, fine = simulate_scan(7, 5, quiet), simulate_scan(7, 5, replace(quiet, fine_mm=0.67))
    np.testing.assert_allclose(centres(fine), centres(coarse), atol=1e-9)
    brain = coarse.brain_mask.data > 0
    a, b = coarse.swi.data[brain], fine.swi.data[brain]
    assert np.corrcoef(a, b)[0, 1] > 0.93
    assert np.mean(np.abs(a - b)) < 0.05 * np.median(a)
    np.testing.assert_allclose(dark_at(fine, centres(fine)), dark_at(coarse, centres(coarse)), atol=0.12)


def test_a_later_visit_keeps_every_microbleed_and_adds_the_new_ones():
    first, second = simulate_subject(5, (3, 5), SMALL)
    assert len(centres(first)) == 3 and len(centres(second)) == 5
    assert {a.session for a in first.annotations} == {"ses-01"} and {a.session for a in second.annotations} == {"ses-02"}
    moved = np.array(second.truth["head_to_world"])
    np.testing.assert_allclose(centres(second)[:3], centres(first) @ moved[:3, :3].T + moved[:3, 3], atol=1e-6)
    assert 0.1 < np.linalg.norm(centres(second)[:3] - centres(first), axis=1).max() < 15  # the head lies otherwise
    voxels = [index_from_world(centres(s)[:3], s.swi.affine) for s in (first, second)]
    assert np.abs(voxels[0] - voxels[1]).max() > 0.3  # and so does the slab on the head
    assert second.truth["lesions"][:3] == first.truth["lesions"][:3] and second.truth["traits"] == first.truth["traits"]
    assert max(dark_at(first, centres(first)).max(), dark_at(second, centres(second)).max()) < 0.8
    not_yet = np.linalg.inv(moved) @ np.r_["0,2", centres(second)[3:].T, np.ones((1, 2))]
    assert np.median(dark_at(first, not_yet[:3].T)) > 0.8


def test_the_anatomy_of_a_later_visit_is_the_same_person():
    """With the head where it was, only noise and coil differ."""
    first, second = simulate_subject(5, (2, 2), replace(SMALL, snr=1e4, bias=0.0))
    at = index_from_world(centres(first), first.swi.affine)
    assert np.all(at > 0)
    grid = np.stack(np.meshgrid(*(np.arange(20, n - 12, 5) for n in first.swi.data.shape), indexing="ij"), -1).reshape(-1, 3)
    world = grid @ first.swi.affine[:3, :3].T + first.swi.affine[:3, 3]
    moved = np.array(second.truth["head_to_world"])
    there = index_from_world(world @ moved[:3, :3].T + moved[:3, 3], second.swi.affine)
    inside = first.brain_mask.data[tuple(grid.T)] > 0
    a = ndimage.gaussian_filter(first.swi.data, 1)[tuple(grid[inside].T)]
    b = ndimage.map_coordinates(ndimage.gaussian_filter(second.swi.data, 1), there[inside].T, order=1)
    assert np.corrcoef(a, b)[0, 1] > 0.8
    stranger = simulate_scan(6, 2, replace(SMALL, snr=1e4, bias=0.0)).swi.data
    assert np.corrcoef(a, ndimage.gaussian_filter(stranger, 1)[tuple(grid[inside].T)])[0, 1] < 0.7


def test_venous_blood_decays_as_measured():
    """At 3 T and an oxygenation of .62 a T2* of about 22 ms (Zhao 2007); 7.4 ms at 7 T; longer at 1.5 T and with more oxygen."""
    assert 1e3 / venous_r2star(0.62, 3.0) == pytest.approx(22, abs=1)
    assert 1e3 / venous_r2star(0.62, 7.0) == pytest.approx(7.4, abs=0.3)
    assert venous_r2star(0.62, 1.5) < venous_r2star(0.62, 3.0) and venous_r2star(0.7, 3.0) < venous_r2star(0.6, 3.0)


@pytest.mark.parametrize(
    ("counts", "case", "got"), [((61,), "scan", "61"), ((3, 2), "time points", "3, 2"), ((), "time points", r"\(\)")]
)
def test_impossible_counts_are_refused(counts, case, got):
    with refused("phantom-setting", case=case, got=got):
        simulate_subject(0, counts, SMALL)


def test_new_microbleeds_leave_the_earlier_visit_as_it_was():
    """The first time point of (2, 6) is that of (2, 2): the same microbleeds, mimics and voxels."""
    few, many = (simulate_subject(3, counts, SMALL)[0] for counts in ((2, 2), (2, 6)))
    assert few.annotations == many.annotations and np.array_equal(few.swi.data, many.swi.data)


@pytest.mark.parametrize("seed", [-1, None, True])
def test_a_seed_is_a_number(seed):
    with refused("phantom-setting", case="phantom seed"):
        simulate_scan(seed, 1, SMALL)
