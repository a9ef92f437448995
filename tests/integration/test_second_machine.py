"""A fresh clone on a second machine: each command names what is missing and what brings it, and none makes a second release 1."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cmb_models.dataset.index import index_datasets
from cmb_models.hash_chain import append_entry
from cmb_models.registry.mlflow.store import MODEL, open_registry
from cmb_models.registry.promote import promote
from cmb_models.registry.register import register
from tests.integration.registry_workspace import LINEAGE, dvc, git
from tests.support.command_line import cmb
from tests.support.refused import refused

RESTORED = ("mlflow.db", "mlartifacts", "releases")


@pytest.fixture
def clone(site, tmp_path, monkeypatch) -> Path:
    """A clone of a workspace whose release 2 is in production; the current folder."""
    promote("2", "best", site)
    dvc(site, "remote", "add", "-d", "backup", str(tmp_path / "backup"))
    dvc(site, "push")
    git(site, "add", "-A")
    git(site, "commit", "-qm", "Promote release 2")
    git(tmp_path, "clone", "-q", str(site), str(tmp_path / "clone"))
    git(tmp_path / "clone", "config", "user.name", "Second Machine")
    git(tmp_path / "clone", "config", "user.email", "second@site.example")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "show 1",
        "lineage 1",
        "lineage production",
        "reproduce 1",
        "promote 1",
        "challenge latest",
        "export production --out e",
        "repair",
    ],
)
def test_a_clone_without_the_registry_names_it_and_what_brings_it(clone, command):
    with refused("registry-missing", case="mlflow.db") as caught:
        raise cmb("release", *command.split()).exception
    assert "rsync -a MACHINE:WORKSPACE/{mlflow.db,mlartifacts,releases} ." in str(caught.value)


def test_a_clone_without_the_registry_merges_no_logs(clone):
    for branch in ("one", "two"):
        git(clone, "checkout", "-qb", branch, "origin/site")
        append_entry(clone / "audit.jsonl", action=branch, before={}, after={})
        git(clone, "commit", "-qam", branch)
    subprocess.run(["git", "merge", "one"], cwd=clone, capture_output=True, check=False)
    before = (clone / "audit.jsonl").read_text()
    with refused("registry-missing"):
        raise cmb("release", "merge").exception
    assert (clone / "audit.jsonl").read_text() == before and "<<<<" in before


def test_a_clone_without_the_registry_does_not_say_that_no_release_used_a_scan(clone):
    shown = cmb("release", "lineage", "--scan", "0123456789")
    assert shown.exit_code == 1 and "unreadable: release 2" in shown.output and "no release used" not in shown.output


def test_a_clone_without_the_registry_registers_no_second_release_1(clone):
    dvc(clone, "pull")
    with refused("registry-missing"):
        register(clone)
    with open_registry(clone) as registry:
        assert registry.releases() == []


def test_a_clone_without_outputs_is_told_to_pull_them(clone):
    with refused("outputs-missing") as caught:
        register(clone)
    assert "dvc pull" in caught.value.remedy


def test_a_clone_without_scans_is_told_to_pull_them(clone):
    with refused("data-missing", got="no phantom") as caught:
        index_datasets(clone / "data/raw")
    assert "dvc pull" in caught.value.remedy


def test_with_its_registry_the_clone_goes_on_as_the_site_would(clone, site):
    dvc(clone, "pull")
    for name in RESTORED:
        copy = shutil.copytree if (site / name).is_dir() else shutil.copy
        copy(site / name, clone / name)
    assert cmb("release", "verify").exit_code == 0
    assert register(clone).is_new is False


def test_a_release_that_was_deleted_from_mlflow_still_says_which_scans_it_used(site):
    """From the kept copy of what was in production."""
    promote("1", "first", site)
    with open_registry(site) as registry:
        registry.client.delete_model_version(MODEL, "1")
    sha256 = LINEAGE["training_scans"]["site_sub-00"]
    assert cmb("release", "lineage", "--scan", sha256).output.count("site_sub-00") == 3
