"""Regions by the atlas: against published places in MNI space, and on simulated scans whose lesions have known regions."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from cmb_models.phantom import SimulatedScan, draw_config, simulate_scan
from cmb_models.phantom.head.template import map_path
from cmb_models.regions import REGIONS, regions_of
from cmb_models.regions.atlas import FILE, load_atlas
from cmb_models.volume import Volume
from scripts.regions_atlas import build
from tests.support import pace

# Centres of mass in AAL, MNI mm (Tzourio-Mazoyer et al. 2002).
AAL = {
    "caudate": ((-11.5, 11.0, 9.2), (14.8, 12.1, 9.4)),
    "putamen": ((-23.9, 3.9, 2.4), (27.8, 4.9, 2.5)),
    "pallidum": ((-17.8, 0.0, 0.2), (21.2, 0.2, 0.2)),
    "thalamus": ((-10.9, -17.6, 8.0), (13.0, -17.6, 8.1)),
}
# Regions of the simulator that lie in one of the scale's. Its "subcortical_white" has lobar and deep white matter.
EXPECTED = {
    "cortex_junction": "lobar",
    "basal_ganglia": "deep",
    "thalamus": "deep",
    "brainstem": "infratentorial",
    "cerebellum": "infratentorial",
}
MOST_S = 1.0


@pytest.fixture(scope="module")
def scan() -> SimulatedScan:
    settings, subject = np.random.SeedSequence(1).spawn(2)
    return simulate_scan(subject, 20, draw_config("ukb", np.random.default_rng(settings)))


def lesions_mm(scan: SimulatedScan) -> np.ndarray:
    return np.array([row.centre_mm for row in scan.annotations if row.is_cmb])


def test_atlas_is_the_scripts():
    made = build()
    atlas = load_atlas()
    np.testing.assert_array_equal(np.asarray(made.dataobj)[..., 1], atlas.region)
    np.testing.assert_allclose(made.affine, atlas.head.image.affine)
    assert FILE.stat().st_size < 50_000


@pytest.mark.parametrize("name", AAL)
def test_deep_nuclei_are_deep(name):
    assert load_atlas().regions_at(np.array(AAL[name])) == ["deep", "deep"]


def test_published_parcels_are_in_their_regions():
    """300 parcels with their anatomy (Seitzman et al. 2020), of which nilearn has the centres. The atlas was not made from them."""
    folder = map_path("t1").parent
    mni_mm = np.loadtxt(folder / "seitzman_2018_ROIs_300inVol_MNI_allInfo.txt", skiprows=1, usecols=(0, 1, 2))
    labels = np.loadtxt(folder / "seitzman_2018_ROIs_anatomicalLabels.txt", skiprows=1).astype(int)
    kinds = {
        5: "deep",
        6: "deep",
        7: "infratentorial",
    }  # the others are cortex and hippocampus
    expected = np.array([kinds.get(label, "lobar") for label in labels])
    found = np.array(load_atlas().regions_at(mni_mm))
    for region in REGIONS:
        assert (found[expected == region] == region).mean() > 0.95, region


def test_lesions_of_a_simulated_scan(scan):
    places = lesions_mm(scan)
    regions_of(scan.swi, places[:1])  # reads the atlas
    began = time.process_time()
    found = regions_of(scan.swi, places)
    assert time.process_time() - began < pace.seconds(MOST_S)
    truth = [EXPECTED.get(lesion["region"]) for lesion in scan.truth["lesions"] if lesion["label"] == "cmb"]
    known = [(region, expected) for region, expected in zip(found, truth, strict=True) if expected]
    assert len(known) >= 10 and {expected for _, expected in known} == set(REGIONS)
    assert sum(region == expected for region, expected in known) / len(known) >= 0.85


def moved(scan: SimulatedScan) -> tuple[Volume, np.ndarray]:
    """Elsewhere in the scanner, and its axes stored in another order."""
    offset = np.array([30.0, -40.0, 50.0])
    affine = scan.swi.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += offset
    return Volume(np.moveaxis(scan.swi.data, 2, 0), affine), lesions_mm(scan) + offset


def stripped(scan: SimulatedScan) -> tuple[Volume, np.ndarray]:
    return Volume(scan.swi.data * (scan.brain_mask.data > 0), scan.swi.affine), lesions_mm(scan)


@pytest.mark.parametrize(("change", "least"), [(moved, 1.0), (stripped, 0.9)])
def test_regions_do_not_depend_on_the_frame_or_the_skull(scan, change, least):
    expected = regions_of(scan.swi, lesions_mm(scan))
    found = regions_of(*change(scan))
    assert np.mean([one == other for one, other in zip(found, expected, strict=True)]) >= least


def noise(scan: SimulatedScan) -> Volume:
    return Volume(np.random.default_rng(0).rayleigh(10, scan.swi.data.shape), scan.swi.affine)


def empty(scan: SimulatedScan) -> Volume:
    return Volume(np.zeros_like(scan.swi.data), scan.swi.affine)


def upside_down(scan: SimulatedScan) -> Volume:
    return Volume(scan.swi.data, np.diag([1.0, 1.0, -1.0, 1.0]) @ scan.swi.affine)


def back_to_front(scan: SimulatedScan) -> Volume:
    return Volume(scan.swi.data, np.diag([1.0, -1.0, 1.0, 1.0]) @ scan.swi.affine)


def not_finite(scan: SimulatedScan) -> Volume:
    data = scan.swi.data.copy()
    data[0, 0, 0] = np.nan
    return Volume(data, scan.swi.affine)


def unplaced(scan: SimulatedScan) -> Volume:
    return Volume(scan.swi.data, scan.swi.affine, in_scanner=False)


@pytest.mark.parametrize("change", [noise, empty, upside_down, back_to_front, not_finite, unplaced])
def test_scan_to_which_the_atlas_does_not_fit(scan, change, caplog):
    with caplog.at_level(logging.WARNING):
        assert regions_of(change(scan), lesions_mm(scan), "sub-01") is None
    assert "sub-01: no regions" in caplog.text


def test_no_places_register_nothing(caplog):
    assert regions_of(Volume(np.zeros((4, 4, 4)), np.eye(4)), np.zeros((0, 3))) == []
    assert not caplog.text
