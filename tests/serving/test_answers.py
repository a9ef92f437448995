"""What the server answers is what the bundle answers in this process; what it refuses, it refuses in words."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as grpc

from cmb_models.client.contract import DETECTOR, INPUTS, OUTPUTS, STEPS
from cmb_models.client.grpc import Client
from cmb_models.errors import InputError
from cmb_models.release.bundle import BundleDetector
from cmb_models.serving.check.checks import Server, contract
from cmb_models.volume import Volume
from tests.support.bundles import head, in_bounds, spots_found
from tests.support.refused import refused
from tests.support.unplaced import unplaced

pytestmark = pytest.mark.serving

# Signs of the stored axes against RAS: the same head, stored in another order of voxels.
ORIENTATIONS = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPS": (-1, -1, 1)}


def stored_as(signs) -> Volume:
    """`head()` as a scanner of that orientation would store it."""
    scan = head()
    data, affine = scan.data, scan.affine.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(data, affine)


@pytest.mark.parametrize("signs", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_served_answer_is_the_bundles_own(served, signs):
    scan = stored_as(signs)
    expected = BundleDetector(served.bundle).detect(scan)
    got = served.client.detect(scan)
    assert spots_found(got) == 3
    assert [d.index for d in got.candidates] == [d.index for d in expected.candidates]
    assert all(in_bounds(d, scan) for d in got.detections)
    pairs = list(zip(got.candidates, expected.candidates, strict=True))
    for attribute in ("score", "stage1_score", "stage2_score", "diameter_mm"):
        difference = [getattr(a, attribute) - getattr(b, attribute) for a, b in pairs]
        assert np.abs(difference).max() < 1e-4, attribute
    places = [np.subtract(a.position_mm, b.position_mm) for a, b in pairs]
    assert np.abs(places).max() < 1e-6
    assert (got.threshold, got.release, got.manifest_sha256) == (0.99, 1, expected.manifest_sha256)


def test_a_file_without_a_place_in_the_scanner_gets_voxel_indices(served, tmp_path):
    path = unplaced(tmp_path / "scan.nii.gz", head())
    got, placed = served.client.detect(path), served.client.detect(head())
    assert [(d.index, d.score) for d in got.candidates] == [(d.index, d.score) for d in placed.candidates]
    assert got.detections and np.isnan([d.position_mm for d in got.candidates]).all()


def test_scan_is_left_as_it_was_and_a_second_answer_is_the_same(served):
    scan = head()
    before = scan.data.copy()
    assert served.client.detect(scan) == served.client.detect(scan)
    np.testing.assert_array_equal(scan.data, before)


def faulty(kind: str) -> Volume:
    scan = head()
    data = scan.data.copy()
    if kind == "nan":
        data[3, 4, 5] = np.nan
    elif kind == "constant":
        data[:] = 7
    elif kind == "thin":
        data = data[:, :, :2]
    elif kind == "inverted":
        data = data.max() - data
    return Volume(data, scan.affine)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "expected finite voxels, got 1 NaN"),
        ("constant", "got a constant volume"),
        ("thin", "a field of view of at least 20 mm, got 80x80x4 mm"),
        ("inverted", "inverted contrast"),
    ],
)
def test_refused_scan_is_told_why_and_the_server_lives_on(served, kind, words):
    with pytest.raises(InputError) as refusal:
        served.client.detect(faulty(kind), case="sub-01_swi.nii.gz")
    assert str(refusal.value).startswith("sub-01_swi.nii.gz: expected ")
    assert words in str(refusal.value)
    assert "scan:" not in str(refusal.value)
    assert served.client.detect(head()).release == 1


def test_unreachable_server_and_missing_release_name_the_remedy(served):
    with refused("server-unreachable", case="127.0.0.1:9"):
        Client("127.0.0.1:9", timeout_s=5).detect(head())
    with refused("server-without-release"):
        Client(served.server.grpc_url, model="no_such_model").detect(head())
    assert Client(served.server.grpc_url, model="no_such_model").serving() is None


def test_metadata_keeps_the_contract(served):
    assert contract(Server(served.server.grpc_url)) == "2 inputs, 9 outputs"
    metadata = grpc.InferenceServerClient(served.server.grpc_url).get_model_metadata(DETECTOR)
    assert [t.name for t in metadata.inputs] == [t.name for t in INPUTS]
    assert [t.name for t in metadata.outputs] == [t.name for t in OUTPUTS]


def test_every_step_is_pinned_to_the_release_that_answers(served):
    config = grpc.InferenceServerClient(served.server.grpc_url).get_model_config(DETECTOR).config
    pins = {s.model_name: s.model_version for s in config.ensemble_scheduling.step}
    assert pins == dict.fromkeys(STEPS, served.client.serving().release)
