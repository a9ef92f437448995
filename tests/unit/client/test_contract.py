"""Answers to tensors and back."""

import re

import numpy as np
import pytest
from tritonclient.utils import np_to_triton_dtype

from cmb_models.client.contract import INPUTS, OUTPUTS, PHASE, pack, unpack
from cmb_models.detection import Detection, DetectionResult
from tests.support.imports import ROOT

FULL = DetectionResult(
    (
        Detection((1.25, -2.0, 3.1), (4, 5, 6), 2.5, 0.123456789012, 0.5, 0.25),
        Detection((0.0, 0.0, -9.9), (0, 700, 2), 10.0, 0.1, 0.75, 1.0),
    ),
    0.123456789012,
    12,
    "ab" * 32,
)
EMPTY = DetectionResult((), 0.5)


@pytest.mark.parametrize("answer", [FULL, EMPTY], ids=["two", "none"])
def test_there_and_back(answer):
    assert unpack(pack(answer)) == answer


@pytest.mark.parametrize("answer", [FULL, EMPTY], ids=["two", "none"])
def test_tensors_have_the_types_and_shapes_of_the_contract(answer):
    tensors = pack(answer)
    assert set(tensors) == {t.name for t in OUTPUTS}
    for tensor in OUTPUTS:
        shape = tuple(len(answer.candidates) if s == -1 else s for s in tensor.shape)
        assert tensors[tensor.name].shape == shape and tensors[tensor.name].dtype == np.dtype(tensor.dtype)


def test_a_score_at_the_threshold_stays_there():
    """float32 on one side alone would drop the candidate that set the threshold."""
    assert len(unpack(pack(FULL)).detections) == 1


def test_the_manifest_may_come_as_text():
    tensors = pack(FULL) | {"manifest_sha256": np.array(["ab" * 32], dtype=object)}
    assert unpack(tensors) == FULL


def test_documented_tensors_are_those_of_the_contract():
    text = (ROOT / "docs/reference/wire-contract.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z0-9]+) \| \((.*?),?\) \|", text, re.MULTILINE)
    sizes = [(name, kind, tuple(int(s) if s.isdigit() else -1 for s in shape.split(", "))) for name, kind, shape in rows]
    assert sizes == [(t.name, t.datatype, t.shape) for t in (*INPUTS, PHASE, *OUTPUTS)]


def test_types_are_named_as_triton_names_them():
    assert [t.datatype for t in (*INPUTS, *OUTPUTS)] == [np_to_triton_dtype(t.dtype) for t in (*INPUTS, *OUTPUTS)]
