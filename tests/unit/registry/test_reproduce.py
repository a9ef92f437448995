"""In which precision a release is trained again, and what is noted where the hardware is another."""

from __future__ import annotations

import os
import tempfile

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


def test_a_clone_is_left_alone_from_the_moment_it_exists(tmp_path, monkeypatch):
    """A second reproduction looks for abandoned clones as soon as the folder of the first is there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make = os.mkdir

    def make_and_clean(*arguments, **options) -> None:
        make(*arguments, **options)
        reproduce._remove_abandoned(tmp_path)

    monkeypatch.setattr(os, "mkdir", make_and_clean)
    with reproduce._place(None) as clone:
        assert clone.is_dir()
        reproduce._remove_abandoned(tmp_path)
        assert clone.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_clone_of_a_killed_reproduction_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "cmb-reproduce-old/data").mkdir(parents=True)
    (tmp_path / "cmb-reproduce-old.lock").touch()
    with reproduce._place(None) as clone:
        assert sorted(p.name for p in tmp_path.iterdir()) == [clone.name, f"{clone.name}.lock"]
