"""How a scan is stored changes nothing that is found in it: order of axes, units of intensity, file format, obliqueness."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import cmb_models as cmb
from cmb_models.detect.preprocess import resample
from cmb_models.errors import InputError
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, BLOBS_MM, head, head_phase, in_bounds, make_bundle, spots_found

MOST_MM, MOST_SCORE = 0.1, 1e-4
ORIENTATIONS = [
    np.stack([axes, signs], axis=1) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
orientations = st.sampled_from(ORIENTATIONS)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """Networks made by hand, whose scores answer to every voxel, and trained ones."""
    folder = tmp_path_factory.mktemp("bundles")
    with (
        cmb.load(make_bundle(folder / "hand")) as hand,
        cmb.load(make_bundle(folder / "phase", phase=True)) as phase,
        cmb.load() as trained,
    ):
        yield {"hand": hand, "phase": phase, "trained": trained}


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Whole numbers from 0 to 255, which every type of voxel holds; on a grid that is resampled."""
    volume = head(affine=AFFINE @ np.diag([0.8, 0.8, 1, 1]), shape=(100, 100, 32))
    return Volume(np.rint(volume.data / 3).clip(0, 255), volume.affine)


@pytest.fixture(scope="module")
def expected(detectors, scan):
    """What each detector without phase finds in `scan`."""
    found = {name: detectors[name].detect(scan) for name in ("hand", "trained")}
    assert all(spots_found(result) == len(BLOBS_MM) for result in found.values())
    return found


def reordered(volume: Volume, orientation: np.ndarray) -> Volume:
    """The same image with its axes permuted and flipped."""
    data = np.ascontiguousarray(apply_orientation(volume.data, orientation))
    return Volume(data, volume.affine @ inv_ornt_aff(orientation, volume.data.shape))


def through_file(volume: Volume, suffix: str = ".nii") -> Volume:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scan{suffix}")
        write_volume(path, volume)
        return read_volume(path)


def assert_same(result, expected, motion: np.ndarray | None = None):
    """Candidates of a result, one for one: their places, after a motion (4, 4), and all their scores."""
    motion = np.eye(4) if motion is None else motion
    places = [np.array([c.position_mm for c in r.candidates]) for r in (result, expected)]
    assert len(places[0]) == len(places[1]) > 0
    distance, partner = cKDTree(places[0]).query(places[1] @ motion[:3, :3].T + motion[:3, 3])
    assert len(set(partner)) == len(partner) and distance.max() <= MOST_MM
    for name in ("score", "stage1_score", "stage2_score"):
        scores = [np.array([getattr(c, name) for c in r.candidates]) for r in (result, expected)]
        assert np.abs(scores[0][partner] - scores[1]).max() <= MOST_SCORE


def assert_same_in_both(detectors, expected, volume: Volume, motion: np.ndarray | None = None):
    for name in expected:
        result = detectors[name].detect(volume)
        assert all(in_bounds(c, volume) for c in result.candidates)
        assert_same(result, expected[name], motion)


def test_every_order_of_the_axes(detectors, scan, expected):
    for orientation in ORIENTATIONS:
        stored = reordered(scan, orientation)
        result = detectors["hand"].detect(stored)
        assert all(in_bounds(c, stored) for c in result.candidates)
        assert_same(result, expected["hand"])


@settings(max_examples=8)
@given(orientations)
def test_an_order_of_the_axes_in_a_file(detectors, scan, expected, orientation):
    assert_same_in_both(detectors, expected, through_file(reordered(scan, orientation)))


@settings(max_examples=8)
@given(orientations)
def test_an_order_of_the_axes_with_phase(detectors, orientation):
    swi, phase = head(), head_phase()
    stored = [through_file(reordered(v, orientation)) for v in (swi, phase)]
    assert_same(detectors["phase"].detect(*stored), detectors["phase"].detect(swi, phase))


@settings(max_examples=8)
@given(st.floats(-3, 4), st.booleans())
def test_a_unit_of_intensity(detectors, scan, expected, exponent, as_integers):
    factor = 10**exponent
    if not as_integers:
        assert_same_in_both(detectors, expected, Volume(scan.data * np.float32(factor), scan.affine))
        return
    image = nib.Nifti1Image(scan.data.astype(np.int16), scan.affine)
    image.header.set_slope_inter(factor, 0)
    assert_same_in_both(detectors, expected, saved(image, ".nii"))


def saved(image: nib.Nifti1Image, suffix: str) -> Volume:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scan{suffix}")
        nib.save(image, path)
        return read_volume(path)


@settings(max_examples=40)
@given(
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]),
    st.sampled_from("<>"),
    st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    st.sampled_from([".nii", ".nii.gz"]),
    st.sampled_from([(1, 0), (0.5, 0), (2, -100), (0.25, 17)]),
)
def test_a_file_format(detectors, scan, expected, dtype, endianness, kind, suffix, scaling):
    slope, inter = scaling
    header = kind.header_class(endianness=endianness)
    image = kind(scan.data.astype(dtype), scan.affine, header)
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(*scaling)
    volume = saved(image, suffix)
    np.testing.assert_array_equal(volume.data, scan.data * slope + inter)
    np.testing.assert_allclose(volume.affine, scan.affine, rtol=1e-7)
    if scaling == (1, 0):
        assert_same(detectors["hand"].detect(volume), expected["hand"])


@settings(max_examples=8)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(-20, 20), orientations)
def test_an_oblique_affine_turns_what_is_found(detectors, scan, expected, axis, degrees, orientation):
    axis = np.array(axis) if np.linalg.norm(axis) > 0.1 else np.array([1.0, 0, 0])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * degrees, degrees=True).as_matrix()
    turned = Volume(scan.data, turn @ scan.affine)
    assert_same_in_both(detectors, expected, through_file(reordered(turned, orientation)), turn)


@settings(max_examples=8)
@given(st.floats(0.3, 1.5), st.floats(0.3, 1.5), st.floats(1, 5), orientations)
@example(0.3, 0.3, 1.0, ORIENTATIONS[0])
@example(0.3, 1.5, 5.0, ORIENTATIONS[20])
@example(1.5, 1.5, 5.0, ORIENTATIONS[47])
@example(0.7, 0.7, 1.4, ORIENTATIONS[11])
def test_sizes_of_voxels(detectors, di, dj, dk, orientation):
    spacing, field_mm = np.array([di, dj, dk]), np.array([60, 66, 60])
    shape = np.rint(field_mm / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (shape - 1) / 2
    stored = through_file(reordered(head(affine=affine, shape=tuple(shape)), orientation))
    result = detectors["trained"].detect(stored)
    assert all(in_bounds(c, stored) for c in result.candidates)
    if max(di, dj) <= 1 and dk <= 2:
        assert spots_found(replace(result, threshold=0)) == len(BLOBS_MM)


@pytest.mark.parametrize(
    ("spacing", "shape", "limit"),
    [
        ((0.09, 1, 2), (300, 40, 20), "at least 0.1 mm"),
        ((1, 1, 6.1), (40, 40, 20), "at most 6 mm"),
        ((5, 5, 5), (201, 20, 20), "at most 1000 mm"),
        ((1, 1, 2), (40, 40, 9), "at least 20 mm"),
    ],
)
def test_sizes_beyond_the_limits_are_named(detectors, spacing, shape, limit):
    volume = Volume(np.ones(shape, dtype=np.float32), np.diag([*spacing, 1.0]))
    with pytest.raises(InputError, match=limit) as raised:
        detectors["hand"].detect(volume)
    assert raised.value.code == "scan-geometry"


@given(st.integers(1, 30).map(lambda n: n / 10), st.integers(10, 600), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_file_is_resampled_to_the_grid_of_its_volume(spacing, size, working):
    """Headers hold affines in single precision, which makes of half a voxel at the end a little more or less."""
    affine = np.diag([1, 1, spacing, 1.0])
    grids = [
        resample(Volume(np.zeros((2, 2, size), dtype=np.float32), a), (1, 1, working))
        for a in (affine, np.float64(np.float32(affine)))
    ]
    assert grids[0].data.shape == grids[1].data.shape
