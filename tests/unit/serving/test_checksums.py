"""A sealed repository arrives whole or not at all."""

from __future__ import annotations

import json
import shutil

import pytest

from cmb_models.serving.deploy.checksums import CHECKSUM_FILE, copy_verified, main, verify, write_repository_checksums
from tests.support.refused import refused


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "source"
    (folder / "cmb_unet" / "3").mkdir(parents=True)
    (folder / "cmb_detector" / "3").mkdir(parents=True)  # an ensemble's version folder is empty
    (folder / "cmb_unet" / "3" / "model.onnx").write_bytes(b"network")
    (folder / "cmb_unet" / "config.pbtxt").write_text('name: "cmb_unet"')
    (folder / ".lock").touch()
    write_repository_checksums(folder)
    return folder


def test_what_was_sealed_is_taken(sealed, tmp_path):
    digest = copy_verified(sealed, tmp_path / "target")
    assert digest == verify(sealed) == verify(tmp_path / "target", digest)
    assert (tmp_path / "target" / "cmb_unet" / "3" / "model.onnx").read_bytes() == b"network"


def test_read_only_source_gives_a_copy_that_can_be_replaced(sealed, tmp_path):
    for path in sorted(sealed.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for _ in range(2):  # an init container may run twice on the same folder
        copy_verified(sealed, tmp_path / "target")
        assert all(p.stat().st_mode & 0o200 for p in (tmp_path / "target").rglob("*"))
    assert not (tmp_path / "target" / ".lock").exists()


def test_folders_that_an_object_store_dropped_come_back(sealed, tmp_path):
    shutil.rmtree(sealed / "cmb_detector")
    with refused("repository-changed", got="cmb_detector/3 is missing"):
        verify(sealed)
    copy_verified(sealed, tmp_path / "target")
    assert (tmp_path / "target" / "cmb_detector" / "3").is_dir()


@pytest.mark.parametrize(
    ("spoil", "code", "got"),
    [
        (
            lambda f: (f / "cmb_unet/3/model.onnx").write_bytes(b"other"),
            "repository-changed",
            "^cmb_unet/3/model.onnx was changed$",
        ),
        (lambda f: (f / "cmb_unet/config.pbtxt").unlink(), "repository-changed", "^cmb_unet/config.pbtxt is missing$"),
        (lambda f: (f / "cmb_unet/3/more.py").touch(), "repository-changed", "^cmb_unet/3/more.py "),
        (lambda f: (f / CHECKSUM_FILE).unlink(), "repository-incomplete", "none"),
        (lambda f: (f / CHECKSUM_FILE).write_text("{}"), "repository-damaged", "files"),
        (
            lambda f: (f / CHECKSUM_FILE).write_text(json.dumps({"files": {}, "folders": ["../out"]})),
            "repository-changed",
            "../out is missing",
        ),
    ],
    ids=["changed", "missing", "added", "no seal", "empty seal", "seal that leads out"],
)
def test_what_is_not_as_sealed_never_becomes_the_target(sealed, tmp_path, spoil, code, got):
    spoil(sealed)
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with refused(code, got=got):
        copy_verified(sealed, target)
    assert [p.name for p in target.iterdir()] == ["old"]
    assert {p.name for p in tmp_path.iterdir()} == {"source", "target"}


def test_another_seal_than_the_one_expected_is_refused(sealed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMB_SEAL_SHA256", "ab" * 32)
    assert main([str(sealed), str(tmp_path / "target")]) == 2
    assert "expected checksum file abababababab" in capsys.readouterr().err
    monkeypatch.setenv("CMB_SEAL_SHA256", verify(sealed))
    assert main([str(sealed), str(tmp_path / "target")]) == 0
    assert main([str(tmp_path / "target")]) == 0
    assert main([]) == 2
