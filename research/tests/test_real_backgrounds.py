"""Microbleeds inserted into scans: the phantom's own physics, at the right place, counted as found or not."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmb_models.detection import Detection
from cmb_models.errors import InputError
from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.isolated_lesion import uniform_swi
from cmb_models.phantom.scan import simulate_scan
from cmb_models.phantom.scanner.slab import make_slab
from cmb_models.release.bundle import BundleDetector
from cmb_models.volume import world_from_index
from research.real_backgrounds.insertion import Insertion, cmb, insert, lesion_factor
from research.real_backgrounds.measure import Found, false_positives, find, measure, sensitivity
from research.real_backgrounds.pictures import draw, require_outside
from research.real_backgrounds.places import APART_MM, CLEAR_MM, clearance_mm, draw_copies
from research.real_backgrounds.scans import Background, brain_of, filtered_phase, read_backgrounds, read_gre
from research.stages import ROOT
from tests.support.bundles import make_bundle

DATA = Path(ROOT / "../shared/data")
SPACING = (0.8, 0.8, 1.6)


def turned(degrees: float) -> np.ndarray:
    """Affine of voxels of SPACING, the slab turned about x."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= SPACING
    affine[:3, 3] = (-20, 5, 30)
    return affine


def background(image=None, degrees=0.0, brain=None, **more) -> Background:
    """Uniform tissue of signal 100 unless given, all brain."""
    image = np.full((61, 61, 31), 100, np.complex64) if image is None else image
    brain = np.ones(image.shape, bool) if brain is None else brain
    return Background("test", image, turned(degrees), brain, 3.0, 20.0, **({"at_once": 1} | more))


@functools.cache
def phantom() -> Background:
    """A small phantom's SWI as magnitude alone, with its brain, and no microbleed."""
    scan = simulate_scan(4, 0, PhantomConfig.small())
    brain = scan.brain_mask.data > 0
    return Background("phantom", scan.swi.data, scan.swi.affine, brain, 3.0, 20.0, 2, scan.vein_mask.data > 0)


def test_a_microbleed_is_that_of_the_phantom():
    scan = simulate_scan(1, 3, replace(PhantomConfig.small(), generation=2))
    config = PhantomConfig.from_json(scan.truth["config"])
    drawn = [x for x in scan.truth["lesions"] if x["label"] == "cmb"]
    assert len(drawn) == 3
    for own in drawn:
        same = cmb(own["centre_mm"], own["diameter_mm"], own["chi_ppm"], own["seed"], config)
        assert (same.radius_mm, same.inner_signal) == (own["radius_mm"], own["inner_signal"])


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_in_uniform_tissue_the_swi_is_that_of_the_isolated_lesion(degrees):
    scan = background(degrees=degrees)
    slab = make_slab(scan.protocol)
    assert np.allclose(slab.b0, [0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))], atol=1e-6)
    lesion = cmb(slab.to_head.apply([0.2, -0.3, 0.4]), 3.0, 0.3, 5, scan.protocol)
    expected = uniform_swi(slab, [lesion])
    at = np.array([30, 30, 15]) + np.array([0.2, -0.3, 0.4]) / SPACING
    swi, _ = scan.volumes(insert(scan, [Insertion(tuple(at), 3.0, 0.3, 5)]))
    middle = np.array(expected.shape) // 2
    window = tuple(slice(m - 8, m + 9) for m in middle)
    near = swi.data[22:39, 22:39, 7:24] / 100
    assert expected[window].min() < 0.4
    assert np.abs(near - expected[window]).max() < 0.02  # the phase filter's box differs


def test_the_darkest_voxel_is_at_the_place_and_nothing_changes_far_off():
    scan = background()
    at = (12.3, 40.4, 9.8)
    image = insert(scan, [Insertion(at, 3.0, 0.4, 2)])
    assert np.linalg.norm((np.array(np.unravel_index(np.abs(image).argmin(), image.shape)) - at) * SPACING) < 1.5
    far = np.linalg.norm((np.indices(image.shape).transpose(1, 2, 3, 0) - at) * SPACING, axis=-1) > 20
    assert np.abs(image / 100 - 1)[far].max() < 0.03  # of the dipole field 20 mm off
    assert (scan.image == 100).all()  # a copy


def test_beyond_the_scan_nothing_is_written_and_magnitude_takes_the_size():
    scan = background(np.full((61, 61, 31), 100, np.float32))
    insertion = Insertion((0.0, 30.0, 15.0), 4.0, 0.4, 2)
    one, other = insert(scan, [insertion]), insert(scan, [insertion], as_swi=True)
    factor = lesion_factor(insertion, make_slab(scan.protocol))
    middle = np.array(factor.shape) // 2
    assert one[0, 30, 15] == pytest.approx(100 * abs(factor[tuple(middle)]), rel=1e-4)
    assert other.min() < one.min() and one.shape == scan.image.shape  # the phase mask darkens further


def test_mirrored_faces_keep_the_filtered_phase_of_a_smooth_field_small():
    ramp = np.exp(1j * np.linspace(0, 2, 61))[:, None, None] * np.ones((61, 61, 4))
    scan = background(ramp.astype(np.complex64))
    assert np.abs(filtered_phase(scan.image, scan.protocol)).max() < 0.5  # wrapped around, the first and last voxel differ by 2


def test_places_are_clear_of_dark_structures_edges_and_one_another():
    image = np.full((61, 61, 31), 100, np.float32)
    image[30, 30] = 20  # a vein through the slices
    brain = np.ones(image.shape, bool)
    brain[:10] = False
    scan = background(image, brain=brain, at_once=3)
    clearance = clearance_mm(scan)
    assert clearance[30, 30, 15] == 0 and clearance[5, 30, 15] == 0 and clearance[12, 30, 15] == pytest.approx(3 * 0.8)
    copies = draw_copies(scan, 20, np.random.default_rng(0))
    assert sum(map(len, copies)) == 20 and max(map(len, copies)) > 1
    for copy in copies:
        for n, one in enumerate(copy):
            voxel = tuple(np.rint(one.at_vox).astype(int))
            assert clearance[voxel] >= one.diameter_mm / 2 + CLEAR_MM
            for other in copy[:n]:
                assert np.linalg.norm(np.subtract(one.at_vox, other.at_vox) * SPACING) >= APART_MM
    assert draw_copies(scan, 20, np.random.default_rng(0)) == copies
    assert draw_copies(background(image, brain=np.zeros_like(brain)), 20, np.random.default_rng(0)) == []


def test_a_brain_is_cut_from_the_scalp():
    i, j, k = np.indices((100, 100, 40))
    away = np.sqrt(((i - 50) * 0.8) ** 2 + ((j - 50) * 0.8) ** 2 + ((k - 20) * 1.6) ** 2)
    image = np.where(away < 24, 100, 3).astype(np.float32)
    image[48:52, 48:52, 20] = 10  # a dark structure inside belongs to the brain
    image[(away > 30) & (away < 32)] = 100  # scalp
    brain = brain_of(image, turned(0))
    assert abs(brain.sum() / (away < 24).sum() - 1) < 0.06
    assert brain[50, 50, 20] and not brain[(away > 28)].any()
    assert not brain_of(np.zeros((20, 20, 20), np.float32), turned(0)).any()


def detection(position, score):
    return Detection(tuple(float(p) for p in position), (0, 0, 0), 3.0, score, score, score)


def test_what_counts_as_found():
    scan = background()
    places = (((10.0, 10.0, 10.0), 3.0), ((50.0, 50.0, 20.0), 8.0), ((10.0, 50.0, 20.0), 1.5))
    copy = [Insertion(at, diameter, 0.3, 1) for at, diameter in places]
    one, other, last = world_from_index(np.array([i.at_vox for i in copy]), scan.affine)
    candidates = [detection(one + [2.9, 0, 0], 0.4), detection(one + [3.1, 0, 0], 0.9), detection(other + [0, 3.9, 0], 0.8)]
    candidates += [detection(other + [0, 4.1, 0], 0.95)]
    found = find(scan, copy, candidates, [detection(last + [1, 0, 0], 0.7)])
    assert found == [Found(3.0, 0.4, False), Found(8.0, 0.8, False), Found(1.5, 0.0, True)]


def test_shares_found_by_hand():
    found = [Found(3.5, 0.9, False), Found(2.5, 0.1, False), Found(2.2, 0.6, False), Found(1.6, 0.2, False), Found(4.0, 0.9, True)]
    figures = sensitivity(found, 0.5)
    assert (figures["from_2_mm"]["found"], figures["from_2_mm"]["of"], figures["at_occupied_places"]) == (2, 3, 1)
    assert figures["from_2_mm"]["interval_95"] == pytest.approx([0.0943, 0.9916], abs=1e-4)  # Clopper and Pearson
    sizes = {name: (row["found"], row["of"]) for name, row in figures["by_size"].items()}
    assert sizes == {"below 2 mm": (0, 1), "2 to below 3 mm": (1, 2), "3 to below 5 mm": (1, 1)}
    assert sensitivity([], 0.5)["from_2_mm"]["interval_95"] == [0.0, 1.0]


def test_false_positives_are_those_in_the_brain():
    brain = np.zeros((61, 61, 31), bool)
    brain[20:40, 20:40, 10:20] = True
    veins = np.zeros_like(brain)
    veins[25, 25, 15] = True
    scan = background(brain=brain, veins=veins)
    places = world_from_index(np.array([[25, 26, 15], [35, 35, 15], [50, 50, 15], [500, 0, 0], [30, 30, 15]]), scan.affine)
    found = [detection(p, s) for p, s in zip(places, (0.9, 0.8, 0.9, 0.9, 0.1), strict=True)]
    figures = false_positives(scan, found, 0.5)
    litres = 20 * 20 * 10 * 0.8 * 0.8 * 1.6 / 1e6
    assert figures["brain_litres"] == pytest.approx(litres, abs=1e-4)
    assert (figures["false_positives"], figures["outside_the_brain"], figures["at_veins"]) == (2, 2, 1)
    assert figures["per_litre"] == pytest.approx(2 / litres)
    assert figures["interval_95"] == pytest.approx([0.2422 / litres, 7.2247 / litres], rel=1e-3)  # Garwood, two events
    assert figures["highest_scores"] == [0.9, 0.8, 0.1]


def test_a_known_microbleed_in_a_small_phantom_is_found_and_the_untouched_one_has_none_there(tmp_path):
    scan = phantom()
    clear = clearance_mm(scan)
    at = tuple(float(v) for v in np.unravel_index(clear.argmax(), clear.shape))
    copy = [Insertion(at, 5.0, 0.4, 3)]
    with BundleDetector(make_bundle(tmp_path / "bundle", threshold=0.3), threads=1) as detector:
        before, after = (
            detector.detect(scan.volumes(image)[0]).candidates for image in (scan.image, insert(scan, copy, as_swi=True))
        )
    threshold = 0.3
    (found,) = find(scan, copy, after, [d for d in before if d.score >= threshold])
    assert found.score >= threshold and not found.occupied
    (untouched,) = find(scan, copy, before, [])
    assert untouched.score < threshold


def test_pictures_stay_outside_the_repository(tmp_path):
    scan = phantom()
    centre = world_from_index(np.array([[48.0, 48.0, 20.0]]), scan.affine)[0]
    draw(scan, [detection(centre, 0.9)], tmp_path / "pictures")
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["phantom-01.png"]
    with pytest.raises(InputError) as error:
        require_outside(ROOT / "research/pictures")
    assert error.value.code == "setting-invalid"


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError) as error:
        read_gre(tmp_path)
    assert error.value.code == "file-not-found" and "mag.nii.gz" in str(error.value)


@pytest.mark.skipif(not (DATA / "gre_crop").is_dir(), reason="the real scans are not here")
def test_real_scans_are_read_and_measured(tmp_path):
    gre, *epis = read_backgrounds(DATA)
    assert gre.image.shape == (51, 51, 41) and np.iscomplexobj(gre.image) and gre.brain_litres == pytest.approx(0.0234, abs=1e-4)
    for scan in epis:
        assert 0.15 < scan.brain_litres < 0.3  # the back of a head
        local = scan.image[scan.brain] / np.median(scan.image[scan.brain])
        assert scan.image[scan.veins].mean() / np.median(scan.image[scan.brain]) < 0.7 * local.mean()  # the mask is this scan's
    with BundleDetector(make_bundle(tmp_path / "bundle", threshold=0.5), threads=1) as detector:
        drawn = []
        figures = measure(detector, DATA, 2, lambda scan, found: drawn.append((scan.name, len(found))))
    assert [name for name, _ in drawn] == list(figures) == ["gre_crop", "gbb7t mean_data", "gbb7t mean_epi"]
    for name, count in drawn:
        untouched = figures[name]["untouched"]
        assert untouched["false_positives"] + untouched["outside_the_brain"] == count
        assert figures[name]["inserted"]["appearance"]["lesions"] == 2
    assert "inserted_as_swi" not in figures["gre_crop"] and "inserted_as_swi" in figures["gbb7t mean_epi"]
