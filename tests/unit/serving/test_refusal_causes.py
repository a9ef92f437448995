"""Every refusal has a cause among few, whatever module it comes from."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.serving.triton.refusal_causes import CAUSES, OTHER, cause_of
from cmb_models.volume import Volume
from tests.support.bundles import head, head_phase, settings
from tests.support.imports import ROOT

SCAN = head()


def with_nan(data):
    return np.where(np.arange(data.shape[0])[:, None, None] == 3, np.nan, data).astype(np.float32)


REFUSED = {
    "not_finite": Volume(with_nan(SCAN.data), SCAN.affine),
    "constant": Volume(np.full_like(SCAN.data, 7), SCAN.affine),
    "geometry": Volume(SCAN.data[:, :, :2], SCAN.affine),
    "intensity": Volume(SCAN.data - 300, SCAN.affine),
    "contrast": Volume(SCAN.data.max() - SCAN.data, SCAN.affine),
    "no_head": Volume(np.where(np.arange(SCAN.data.size).reshape(SCAN.data.shape) == 90_000, 9, 0).astype(np.float32), SCAN.affine),
}


@pytest.mark.parametrize("cause", REFUSED)
def test_scan(cause):
    with pytest.raises(InputError) as refusal:
        prepare(REFUSED[cause], settings().preprocess, "scan")
    assert cause_of(refusal.value) == cause


@pytest.mark.parametrize(
    "phase",
    [None, SCAN, Volume(SCAN.data * 0, SCAN.affine), head_phase(shape=(80, 80, 31))],
    ids=["none", "SWI", "blank", "other grid"],
)
def test_phase(phase):
    with pytest.raises(InputError) as refusal:
        prepare(SCAN, settings(phase=True).preprocess, "scan", phase)
    assert cause_of(refusal.value) == "phase"


def refusals() -> dict[str, str]:
    """What each `raise InputError(...)` on a request's way expects, by place; its variable parts left out."""
    found = {}
    for folder in ("cmb_models/detect", "serving/model_repository"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                    words = [n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                    found[f"{file.name}:{node.lineno}"] = " ".join(words)
    return found


def test_no_refusal_in_the_code_is_without_a_cause():
    found = refusals()
    assert len(found) > 15
    causes = {place: cause_of(InputError("scan", words, "", "")) for place, words in found.items() if words}
    assert set(causes.values()) == set(CAUSES)
    assert not [place for place, cause in causes.items() if cause == OTHER]


def test_other_words_are_other():
    assert cause_of(InputError("scan", "a rabbit", "a hare", "look again")) == OTHER
