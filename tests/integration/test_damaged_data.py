"""A bit flips in DVC's cache, which DVC does not notice: no stage uses the damaged scan, and a withdrawal finds it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cmb_models.files import sha256_of
from cmb_models.registry.promote import promote
from cmb_models.registry.register import register
from cmb_models.workspace.dvc_cache import cache_dir, cached_object
from cmb_models.workspace.recorded_data import differing_files, require_recorded
from pipelines import ingest
from tests.integration import registry_workspace
from tests.integration.registry_workspace import GOOD, begin, dvc, git, retrain
from tests.support.command_line import cmb
from tests.support.refused import refused

SCAN = "data/raw/phantom/sub-03/swi/sub-03_swi.nii"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A workspace with release 1, which was evaluated on a held-out scan."""
    folder = tmp_path_factory.mktemp("damaged") / "site"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        begin(folder)
        scan = folder / SCAN
        scan.parent.mkdir(parents=True)
        scan.write_bytes(bytes(range(256)))
        dvc(folder, "add", "data/raw/phantom")
        seen = registry_workspace.LINEAGE | {"locked_scans": {"phantom_sub-03": sha256_of(scan)}}
        patch.setattr(registry_workspace, "LINEAGE", seen)
        retrain(folder, GOOD)
        register(folder)
        promote("1", "first", folder)
    return folder


@pytest.fixture
def site(template, monkeypatch, tmp_path) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    folder = tmp_path / "site"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def flip_a_bit(file: Path) -> None:
    """As a disk does: neither size nor date change."""
    content, status = bytearray(file.read_bytes()), file.stat()
    content[100] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    file.chmod(status.st_mode)


def damage_cache(site: Path, file: str = SCAN) -> Path:
    """Damage a file's object in DVC's cache; what the workspace has is checked out from there."""
    cached = cached_object(site, hashlib.md5((site / file).read_bytes()).hexdigest())
    flip_a_bit(cached)
    shutil.rmtree(site / "data/raw/phantom")
    dvc(site, "checkout")
    return cached


def dvc_status(site: Path) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=site, check=True, capture_output=True, text=True).stdout


def test_a_scan_that_was_damaged_in_the_cache_of_dvc_is_named_and_not_registered(site):
    cached = damage_cache(site)
    assert "up to date" in dvc_status(site), "DVC does not notice"
    assert differing_files(site) == [f"{SCAN} (and in DVC's cache, {cached})"]
    with refused("scan-changed", got=SCAN):
        register(site)
    with refused("scan-changed", got=SCAN):
        ingest.main()


def test_a_file_that_was_damaged_in_the_workspace_alone_is_named(site):
    require_recorded(site)
    dvc_status(site)  # from now on it goes by size and date
    flip_a_bit(site / SCAN)
    assert "up to date" in dvc_status(site)
    assert differing_files(site) == [SCAN]


def test_a_damaged_list_of_files_is_refused(site):
    md5 = yaml.safe_load((site / "data/raw/phantom.dvc").read_text())["outs"][0]["md5"]
    flip_a_bit(cached_object(site, md5))
    with refused("scan-changed", case=r"\.dir$"):
        require_recorded(site)


def test_a_cache_in_another_folder_is_consulted(site, tmp_path):
    shutil.move(site / ".dvc/cache", tmp_path / "cache")
    dvc(site, "cache", "dir", "--local", str(tmp_path / "cache"))
    cache_dir.cache_clear()
    flip_a_bit(site / SCAN)
    assert differing_files(site) == [SCAN]


def test_a_release_is_not_reproduced_from_a_damaged_scan(site, tmp_path):
    damage_cache(site)
    shown = cmb("release", "reproduce", "1", "--folder", str(tmp_path / "again"), "--json")
    assert shown.exception.code == "dvc-failed"
    assert not (tmp_path / "again" / SCAN).exists()


def test_a_release_is_reproduced_from_the_remote_where_the_cache_is_damaged(site, tmp_path):
    dvc(site, "remote", "add", "-d", "backup", str(tmp_path / "backup"))
    git(site, "commit", "-qam", "Add a remote")
    retrain(site, GOOD | {"sensitivity": 0.9})
    register(site)
    dvc(site, "push")
    damage_cache(site)
    done = cmb("release", "reproduce", "latest", "--folder", str(tmp_path / "again"), "--json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again" / SCAN).read_bytes() == bytes(range(256))


def test_a_withdrawal_finds_the_scan_by_its_name_where_its_hash_has_changed(site, tmp_path):
    recorded = sha256_of(site / SCAN)
    damage_cache(site)
    shown = cmb("release", "lineage", "--scan", SCAN)
    assert "no release used scan" in shown.output
    assert f"release 1 used a scan of this name with another hash (locked test): phantom_sub-03 {recorded[:16]}" in shown.output
    (named,) = json.loads(cmb("release", "lineage", "--scan", SCAN, "--json").output)["seen_with_another_hash"]
    assert (named["release"], named["key"], named["sha256"]) == (1, "phantom_sub-03", recorded)
    loose = tmp_path / "sub-03_swi.nii"
    loose.write_bytes(b"from the archive")
    assert "phantom_sub-03" in cmb("release", "lineage", "--scan", str(loose)).output
    for other in (tmp_path / "sub-04_swi.nii", tmp_path / "elsewhere/sub-03/swi/sub-03_swi.nii"):
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"another scan")
        assert "another hash" not in cmb("release", "lineage", "--scan", str(other)).output
