"""What is refused before a network sees it, and that real-looking heads are not."""

import re

import numpy as np
import pytest
from scipy import ndimage

from cmb_models.detect.checks import check_scan
from cmb_models.detect.detector import CandidateList, decide, propose
from cmb_models.detect.preprocess import Prepared, prepare
from cmb_models.volume import Volume
from tests.support.bundles import AFFINE, head, settings
from tests.support.refusals import REFUSALS
from tests.support.refused import refused


def changed(change) -> Volume:
    data = head().data.copy()
    return Volume(change(data), AFFINE)


def with_voxel(value):
    def change(data):
        data[1, 2, 3] = value
        return data

    return change


def sliding_minimum(data: np.ndarray, slices: int, axis: int) -> np.ndarray:
    shifted = [np.roll(data, -n, axis) for n in range(slices)]
    return np.min(shifted, axis=0)


def stored_phase() -> Volume:
    """Phase as Siemens stores it, from 0 to 4095: noise over the whole range in air, little in the head."""
    data, rng = head().data, np.random.default_rng(0)
    inside = data > 0.3 * data.max()
    phase = np.where(inside, 2048 + 200 * rng.standard_normal(data.shape), rng.uniform(0, 4095, data.shape))
    smooth = ndimage.gaussian_filter(phase, 1)
    return Volume(np.rint(smooth), AFFINE)


REFUSED = {
    "NaN": (changed(with_voxel(np.nan)), "scan-not-finite", "^1 "),
    "infinite": (changed(with_voxel(-np.inf)), "scan-not-finite", "^1 "),
    "constant": (changed(lambda d: np.full_like(d, 7)), "scan-constant", "7"),
    "phase": (changed(lambda d: d - d.mean()), "scan-intensity", "62 %"),
    "inverted": (changed(lambda d: d.max() - d), "scan-contrast", ""),
    "phase from 0 up": (stored_phase(), "scan-intensity", "a phase image"),
    "minimum over 2 slices": (changed(lambda d: sliding_minimum(d, 2, 2)), "scan-derived", "minimum intensity projection"),
    "minimum over 8 slices": (changed(lambda d: sliding_minimum(d, 8, 2)), "scan-derived", "minimum intensity projection"),
    "sagittal projection": (changed(lambda d: sliding_minimum(d, 4, 0)), "scan-derived", "minimum intensity projection"),
    "every slice twice": (changed(lambda d: np.repeat(d, 2, axis=2)), "scan-derived", "next slice"),
    "one slice": (changed(lambda d: d[:, :, :1]), "scan-geometry", "80, 80, 1"),
    "no voxels": (changed(lambda d: d[:, :, :0]), "scan-geometry", "80, 80, 0"),
    "thin slab": (changed(lambda d: d[:, :, 12:20]), "scan-geometry", "80x80x16 mm"),
    "thick slices": (Volume(head().data, np.diag([1, 1, 6.5, 1])), "scan-geometry", "1.00x1.00x6.50 mm"),
    "micrometres": (Volume(head().data, np.diag([1000.0, 1000, 2000, 1])), "scan-geometry", "1000.00x1000.00x2000.00 mm"),
    "metres": (Volume(head().data, np.diag([0.001, 0.001, 0.002, 1])), "scan-geometry", "0.001x0.001x0.002 mm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_case_and_remedy(case):
    volume, code, got = REFUSED[case]
    with refused(code, case="^scan 7$", got=got) as raised:
        check_scan(volume, "scan 7")
    assert raised.value.remedy


@pytest.mark.parametrize(
    "volume",
    [
        head(),
        head(blobs_mm=()),
        changed(lambda d: np.concatenate([np.full_like(d[:3], -5), d[3:]])),  # 3 of 80 slices: a little ringing below zero
        changed(lambda d: d[10:70, 10:70]),  # a tight field of view: corners are head
        changed(lambda d: np.rint(d / d.max() * 20)),  # neighbours are equal along all axes
    ],
    ids=["head", "no spots", "ringing", "no air", "few grey levels"],
)
def test_heads_pass(volume):
    check_scan(volume, "scan")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_inverted_contrast_is_seen_in_any_storage_order(order):
    inverted = REFUSED["inverted"][0]
    stored = Volume(inverted.data.transpose(order), inverted.affine[:, [*order, 3]])
    with refused("scan-contrast"):
        prepare(stored, settings().preprocess, "scan")


@pytest.mark.parametrize("case", REFUSALS)
def test_table_of_refusals(case):
    data, affine, code, words = REFUSALS[case]
    # InputError, or Volume's own where there is no affine to speak of
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        prepare(Volume(np.asarray(data, dtype=np.float32), affine), settings().preprocess, "scan")
    assert getattr(refusal.value, "code", "scan-geometry") == code


def test_grid_is_refused_before_its_voxels_are_looked_at():
    """A view of one number, 4 TB if it were copied."""
    endless = Volume(np.broadcast_to(np.float32(1), (10_000, 10_000, 10_000)), np.eye(4))
    with refused("scan-too-large"):
        prepare(endless, settings().preprocess, "scan")


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1e20, 5e34])
def test_scale_of_intensities_is_of_no_matter(scale):
    expected = prepare(head(), settings().preprocess, "scan").image
    scaled = prepare(Volume(head().data * np.float32(scale), AFFINE), settings().preprocess, "scan").image
    np.testing.assert_allclose(scaled, expected, atol=0.1 if scale == 1e-43 else 1e-4)  # 1e-43: two digits are left


def test_hot_voxels_are_not_taken_for_noise():
    data = head().data.copy()
    data[np.random.default_rng(0).integers(0, 32, (60, 3)).T.tolist()[0], 20:22, 5] = 65535.0
    check_scan(Volume(data, AFFINE), "scan")


HEATMAP, IMAGE = np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
N = np.zeros(2, np.float32)
FOUND = (np.zeros((2, 3), np.int64), np.zeros((2, 3)), N, N)


@pytest.mark.parametrize(
    ("step", "got"),
    [
        (lambda c: propose(HEATMAP[:4], Prepared(IMAGE, AFFINE, (8, 8, 8)), c), "4, 8, 8"),
        (lambda c: propose(HEATMAP, Prepared(IMAGE, AFFINE, (8, 8, 9)), c), "8, 8, 9"),
        (lambda c: propose(HEATMAP, Prepared(IMAGE, AFFINE, (8, -1, 8)), c), "8, -1, 8"),
        (lambda c: propose(HEATMAP, Prepared(IMAGE, np.zeros((4, 4)), (8, 8, 8)), c), "0.0, 0.0, 0.0, 0.0"),
        (lambda c: propose(HEATMAP, Prepared(IMAGE, AFFINE, (8, 8, 8), IMAGE[:4]), c), "4, 8, 8"),
        (lambda c: decide(CandidateList(*FOUND), N[:1], AFFINE, c.decision), "2, 2, 2, 2, 1"),
        (lambda c: decide(CandidateList(*FOUND), N, AFFINE * np.nan, c.decision), "nan"),
        (lambda c: decide(CandidateList(FOUND[0], FOUND[1] + np.inf, N, N), N, AFFINE, c.decision), ""),
        (lambda c: decide(CandidateList(*FOUND[:3], N - 1), N, AFFINE, c.decision), "-1 to 0"),
    ],
)
def test_steps_refuse_arrays_that_do_not_fit_together(step, got):
    with refused("step-inconsistent", got=got):
        step(settings())


def test_a_field_of_view_that_no_scanner_has():
    endless = Volume(np.zeros((4, 4, 60_000), dtype=np.float32), np.diag([6.0, 6, 0.2, 1]))
    with refused("scan-geometry", got="24x24x12000 mm"):
        prepare(endless, settings().preprocess, "scan")
