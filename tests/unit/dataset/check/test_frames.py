"""In which frame marks were written: sets of 10 scans and 20 marks, a hundred in each frame."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.dataset.check.frames import MIN_MARKS, WRITTEN, darkness, darkness_by_frame, other_frame, positions, require_frame
from cmb_models.errors import InputError
from cmb_models.volume import Volume, index_from_world, world_from_index
from tests.support.refused import refused

SCANS, SETS, MARKS = 30, 100, 20
SHAPE, SPACING_MM = (110, 120, 50), (0.9, 0.9, 1.75)
READER_MM = 0.4  # by which a reader misses a centre, along each axis
FRAMES = (
    WRITTEN,
    "LPS",
    "mirrored left to right",
    "slices in reverse order",
    "voxel indices from 1",
    "millimetres of voxel indices from 1",
)


def scan(rng: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """A head of noisy tissue with dark veins and two microbleeds of real sizes (median 2.7 mm); its array is stored as LAS."""
    affine = np.diag([-SPACING_MM[0], *SPACING_MM[1:], 1.0])
    affine[:3, 3] = world_from_index(-np.array([SHAPE]) / 2, affine)[0] + rng.uniform(-3, 3, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1) - np.array(SHAPE) / 2
    head = ((grid / (np.array(SHAPE) * 0.45)) ** 2).sum(axis=-1) < 1
    tissue = 100 + 12 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3) * 10 + 6 * rng.standard_normal(SHAPE)
    for _ in range(40):  # veins: straight and dark
        i, j = rng.integers(8, 100, 2)
        tissue[i : i + 2, j : j + rng.integers(3, 20), rng.integers(2, 46)] *= 0.5
    inside = np.argwhere(ndimage.binary_erosion(head, iterations=6))
    centres = inside[rng.choice(len(inside), 2, replace=False)] + rng.uniform(-0.5, 0.5, (2, 3))
    for centre in centres:
        radius = np.clip(rng.lognormal(np.log(1.35), 0.36), 1.0, 3.0)
        away = np.linalg.norm((np.stack(np.indices(SHAPE), axis=-1) - centre) * SPACING_MM, axis=-1)
        tissue *= 1 - 0.7 / (1 + np.exp((away - radius) / 0.4))
    data = np.where(head, np.maximum(tissue, 0), 4 * rng.random(SHAPE)).astype(np.float32)
    return Volume(data, affine), world_from_index(centres, affine)


def written(centres_mm: np.ndarray, volume: Volume, frame: str) -> np.ndarray:
    """RAS centres as somebody would write them in another frame."""
    index = index_from_world(centres_mm, volume.affine)
    if frame == "slices in reverse order":
        return world_from_index(index * (1, 1, -1) + (0, 0, volume.data.shape[2] - 1), volume.affine)
    signs = {WRITTEN: (1, 1, 1), "LPS": (-1, -1, 1), "mirrored left to right": (-1, 1, 1)}
    if frame in signs:
        return centres_mm * signs[frame]
    return np.rint(index) + 1 if frame == "voxel indices from 1" else world_from_index(np.rint(index) + 1, volume.affine)


@pytest.fixture(scope="module")
def scans():
    rng = np.random.default_rng(8)
    return [scan(rng) for _ in range(SCANS)]


@pytest.mark.slow
@pytest.mark.parametrize("frame", FRAMES)
def test_a_hundred_sets_in_one_frame(scans, frame):
    rng = np.random.default_rng(9)
    marks = [
        darkness_by_frame(written(centres + rng.normal(0, READER_MM, centres.shape), volume, frame), volume)
        for volume, centres in scans
    ]
    right = 0
    for _ in range(SETS):
        chosen = rng.choice(SCANS, MARKS // 2, replace=False)
        try:
            require_frame("site/annotations.csv", [marks[n] for n in chosen])
            right += frame == WRITTEN
        except InputError as error:
            right += error.code == "annotation-frame" and error.got.endswith(f"of {MARKS} read as {frame}")

    assert right >= (SETS if frame == WRITTEN else 0.99 * SETS)


def test_a_few_marks_are_never_refused(scans):
    marks = [darkness_by_frame(written(centres, volume, "LPS"), volume) for volume, centres in scans[: MIN_MARKS // 2]]
    require_frame("site/annotations.csv", marks)
    require_frame("site/annotations.csv", [])


def test_marks_that_are_no_ras(scans):
    """As they were read, voxel indices from 1 are right; read as RAS they are not, and read as LPS neither."""
    marks = [darkness_by_frame(written(centres, volume, "voxel indices from 1"), volume) for volume, centres in scans[:10]]
    assert other_frame(marks, "voxel indices from 1") is None
    for read_as in (WRITTEN, "LPS"):
        other = other_frame(marks, read_as)
        assert other and other.name == "voxel indices from 1"


@pytest.mark.parametrize(("gain", "found"), [(0.05, None), (0.15, "voxel indices from 1")])
def test_a_shift_by_one_voxel_gains_little(gain, found):
    """Indices read from the other base need the gain of a shift, other frames that of another place."""
    dark = np.full(12, 0.8) + np.linspace(-0.01, 0.01, 12)
    other = other_frame([{"voxel indices from 0": dark, "voxel indices from 1": dark + gain}], "voxel indices from 0")
    assert (other.name if other else None) == found
    assert other_frame([{WRITTEN: dark, "LPS": dark + gain}]) is None


def test_the_message_names_both_counts(scans):
    marks = [darkness_by_frame(written(centres, volume, "LPS"), volume) for volume, centres in scans[:10]]
    with refused("annotation-frame", got=r"marks of which \d of 20 are dark there, and (1[5-9]|20) of 20 read as LPS"):
        require_frame("site/annotations.csv", marks)


def test_darkness():
    data = np.full((40, 40, 40), 100.0, dtype=np.float32)
    data[:, :, :8] = 0  # air
    data[20, 20, 25], data[5, 5, 25] = 10, 200
    places = {(20, 20, 25): 1, (5, 5, 25): 0, (20, 20, 0): 0, (20, 20, 45): 0, (-1, 5, 5): 0}
    found = darkness(Volume(data, np.eye(4)), np.array(list(places), dtype=float))
    np.testing.assert_allclose(found, list(places.values()), atol=1e-3)


def test_darkness_at_the_edge_of_an_extracted_brain():
    """Air counts as no surroundings: a dark place at the edge is as dark as one within, bright tissue there is not dark."""
    data = np.zeros((40, 40, 40), dtype=np.float32)
    data[:, :, 20:] = 100 + np.arange(20, dtype=np.float32)
    data[20, 20, 20], data[10, 10, 20] = 30, 119
    found = darkness(Volume(data, np.eye(4)), np.array([[20.0, 20, 20], [10, 10, 20]]))
    np.testing.assert_allclose(found, [1, 0], atol=1e-3)


def test_positions_by_hand():
    volume = Volume(np.zeros((10, 10, 6), np.float32), np.diag([2.0, 2, 3, 1]))
    found = positions(np.array([[4.0, 6, 9]]), volume)
    assert {name: index[0].tolist() for name, index in found.items()} == {
        "RAS": [2, 3, 3],
        "LPS": [-2, -3, 3],
        "mirrored left to right": [-2, 3, 3],
        "mirrored front to back": [2, -3, 3],
        "slices in reverse order": [2, 3, 2],
        "voxel indices from 0": [4, 6, 9],
        "voxel indices from 1": [3, 5, 8],
        "millimetres of voxel indices from 1": [1, 2, 2],
    }
