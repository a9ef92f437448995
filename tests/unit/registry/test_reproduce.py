"""In which precision a release is trained again, and what is noted where the hardware is another."""

from __future__ import annotations

import pytest

from cmb_models.files import write_json
from cmb_models.registry.provenance import reproduce
from cmb_models.registry.provenance.reproduce import PRECISION_VARIABLE
from cmb_models.release.bundle import LINEAGE_FILE
from cmb_models.training import precision
from cmb_models.workspace.paths import BUNDLE

COMPUTE = {"device": "cpu", "processor": "AVX512", "precision": "bfloat16"}


@pytest.mark.parametrize(
    ("lineage", "native", "setting", "expected"),
    [
        ({"compute": COMPUTE}, True, "", "bfloat16"),
        ({"compute": COMPUTE}, False, "", ""),  # emulated, it would take a day
        ({"compute": COMPUTE | {"precision": "float32"}}, True, "", "float32"),
        ({"compute": COMPUTE | {"precision": "float32"}}, False, "", "float32"),
        ({"compute": COMPUTE}, True, "float32", ""),  # the user's own setting is inherited
        ({}, True, "", ""),  # a release from before precision was kept
    ],
)
def test_the_releases_own_precision_where_it_is_native(monkeypatch, lineage, native, setting, expected):
    monkeypatch.setattr(precision, "native_bfloat16", lambda: native)
    monkeypatch.setenv(PRECISION_VARIABLE, setting)
    assert reproduce._precision(lineage) == expected


@pytest.mark.parametrize(
    ("before", "now", "notes"),
    [
        (COMPUTE, COMPUTE, 0),
        (COMPUTE, COMPUTE | {"processor": "AVX2", "precision": "float32"}, 1),
        (None, COMPUTE, 0),
    ],
)
def test_other_hardware_is_noted(tmp_path, before, now, notes):
    write_json(tmp_path / BUNDLE / LINEAGE_FILE, {"compute": now})
    got = reproduce._notes({"compute": before} if before else {}, tmp_path, is_kept=False)
    assert len(got) == notes
    if notes:
        assert got[0].startswith("trained on cpu (AVX2) in float32, the release on cpu (AVX512) in bfloat16")
