"""What is refused before a network sees it, and that real-looking heads are not."""

import numpy as np
import pytest

from cmb_models.detect.checks import check_scan
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.volume import Volume
from tests.bundles import AFFINE, head, settings


def changed(change) -> Volume:
    data = head().data.copy()
    return Volume(change(data), AFFINE)


def with_voxel(value):
    def change(data):
        data[1, 2, 3] = value
        return data

    return change


REFUSED = {
    "NaN": (changed(with_voxel(np.nan)), "1 NaN or infinite"),
    "infinite": (changed(with_voxel(-np.inf)), "1 NaN or infinite"),
    "constant": (changed(lambda d: np.full_like(d, 7)), "constant volume .every voxel is 7"),
    "phase": (changed(lambda d: d - d.mean()), "negative voxels"),
    "inverted": (changed(lambda d: d.max() - d), "inverted contrast"),
    "one slice": (changed(lambda d: d[:, :, :1]), r"shape \(80, 80, 1\)"),
    "no voxels": (changed(lambda d: d[:, :, :0]), r"shape \(80, 80, 0\)"),
    "thin slab": (changed(lambda d: d[:, :, 12:20]), "80x80x16 mm"),
    "thick slices": (Volume(head().data, np.diag([1, 1, 6.5, 1])), "1.00x1.00x6.50 mm"),
    "micrometres": (Volume(head().data, np.diag([1000.0, 1000, 2000, 1])), "at most 6 mm"),
    "metres": (Volume(head().data, np.diag([0.001, 0.001, 0.002, 1])), "voxels of at least 0.1 mm, got 0.001x0.001x0.002 mm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_case_and_remedy(case):
    volume, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as raised:
        check_scan(volume, "scan 7")
    assert raised.value.case == "scan 7" and raised.value.remedy


@pytest.mark.parametrize(
    "volume",
    [
        head(),
        head(blobs_mm=()),
        changed(lambda d: np.concatenate([np.full_like(d[:3], -5), d[3:]])),  # 3 of 80 slices: a little ringing below zero
        changed(lambda d: d[10:70, 10:70]),  # a tight field of view: corners are head
    ],
    ids=["head", "no spots", "ringing", "no air"],
)
def test_heads_pass(volume):
    check_scan(volume, "scan")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_inverted_contrast_is_seen_in_any_storage_order(order):
    inverted = REFUSED["inverted"][0]
    stored = Volume(inverted.data.transpose(order), inverted.affine[:, [*order, 3]])
    with pytest.raises(InputError, match="inverted contrast"):
        prepare(stored, settings().preprocess, "scan")
