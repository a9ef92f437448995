"""Trust fails closed: where git cannot be consulted, nothing that depends on it is assumed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmb_models.cli.detect import open_detector
from cmb_models.cli.server import _DesiredStateSource
from cmb_models.registry.mlflow.store import Registry, Release
from cmb_models.registry.provenance.lineage import lineage_faults
from cmb_models.registry.provenance.sbom import locked_environment
from cmb_models.release.bundle import BundleDetector, load_bundle
from cmb_models.release.keys import bundle_keys, new_keys, require_key, trusted_keys
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.workspace.versioning import (
    file_at,
    files_at,
    find_workspace,
    git_commit,
    git_lines,
    has_commit,
    head_commit,
    is_ignored,
    require_clean,
    user_name,
    workspace_around,
)
from tests.integration.registry_workspace import git
from tests.support.bundles import make_bundle
from tests.support.refused import refused


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("unsigned") / "bundle")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A workspace whose commit holds a public key; the current folder."""
    for name in ("CMB_SIGNING_KEY", "CMB_PUBLIC_KEY", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "site"
    git(tmp_path, "init", "-q", "-b", "main", str(folder))
    git(folder, "config", "user.email", "engineer@site.example")
    git(folder, "config", "user.name", "Site Engineer")
    (folder / ".gitignore").write_text("*.key\n")
    (folder / "requirements.lock").write_text("numpy==2.4.6\n")
    new_keys(folder / "keys")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Releases are signed")
    monkeypatch.chdir(folder)
    return folder


def other_owner(site, monkeypatch):
    """As in a container, or on a share, whose files belong to somebody else."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return "git-failed", "dubious ownership"


def no_git(site, monkeypatch):
    empty = site.parent / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    return "program-missing", "none"


def no_head(site, monkeypatch):
    """Git then says what it says of a folder without a repository."""
    (site / ".git/HEAD").unlink()
    return "git-failed", "fatal: not a git repository"


def no_config(site, monkeypatch):
    (site / ".git/config").write_text("[core\n")
    return "git-failed", "fatal: bad config"


REFUSALS = [other_owner, no_git, no_head, no_config]
CONSULTING = {
    "trusted_keys": trusted_keys,
    "bundle_keys": lambda site: bundle_keys(site / "models/bundle", site),
    "require_key": require_key,
    "new_keys": lambda site: new_keys(site / "secret"),
    "workspace_around": workspace_around,
    "find_workspace": find_workspace,
    "git_commit": git_commit,
    "head_commit": head_commit,
    "has_commit": lambda site: has_commit(site, "a" * 40),
    "git_lines": lambda site: git_lines(site, "rev-list", "HEAD"),
    "files_at": lambda site: files_at(site, "HEAD", "keys"),
    "file_at": lambda site: file_at(site, "HEAD", "dvc.lock"),
    "is_ignored": lambda site: is_ignored(site / "mlflow.db"),
    "user_name": user_name,
    "require_clean": require_clean,
    "lineage_faults": lambda site: lineage_faults(site, {"git_commit": "a" * 40}),
    "locked_environment": lambda site: locked_environment(site, "HEAD", "0" * 64),
}


@pytest.mark.parametrize("break_git", REFUSALS)
@pytest.mark.parametrize("name", CONSULTING)
def test_what_git_decides_is_refused_with_the_cause(site, monkeypatch, break_git, name):
    code, got = break_git(site, monkeypatch)
    with refused(code, got=got):
        CONSULTING[name](site)
    assert not (site / "secret/release.key").exists()


@pytest.mark.parametrize("break_git", [None, *REFUSALS])
def test_no_way_opens_an_unsigned_bundle(site, unsigned, monkeypatch, break_git):
    from cmb_models.registry.mlflow.pyfunc_model import CmbDetector

    registry = Registry(site, "sqlite:///none.db", True)
    context = SimpleNamespace(artifacts={"bundle": str(unsigned)})
    monkeypatch.setattr(Registry, "_verified", lambda self, release, expected: unsigned)
    code, got = break_git(site, monkeypatch) if break_git else ("signature-missing", r"model\.sig")
    for way in (
        lambda: open_detector(None, unsigned),
        lambda: _DesiredStateSource(unsigned)(),
        lambda: registry.fetch(Release(1, "", {}, ())),
        lambda: CmbDetector().load_context(context),
        lambda: deploy_bundle(unsigned, 1, site / "repository", "localhost:1", trusted_keys(site)),
        lambda: BundleDetector(unsigned, trusted_keys=trusted_keys(site)),
    ):
        with refused(code, got=got):
            way()


def test_lost_objects_are_refused(site):
    shutil.rmtree(site / ".git/objects")
    (site / ".git/objects").mkdir()
    with refused("git-failed", got="fatal: not a tree object"):
        trusted_keys(site)


@pytest.mark.parametrize("content", [None, ""])
def test_a_lost_branch_is_no_repository_before_its_first_commit(site, content):
    branch = site / ".git/refs/heads/main"
    branch.unlink() if content is None else branch.write_text(content)
    with refused("git-failed"):
        trusted_keys(site)


def test_a_key_with_an_odd_name_counts(site):
    (site / "keys/release.pub").rename(site / 'keys/the "new" é.pub')
    git(site, "add", "-A")
    git(site, "commit", "-qm", "Rename it")
    assert list(trusted_keys(site)) == ['keys/the "new" é.pub']


def test_in_no_repository_no_signature_is_required(tmp_path, unsigned, monkeypatch):
    monkeypatch.delenv("CMB_PUBLIC_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert workspace_around(tmp_path) is None and head_commit(tmp_path) == "" and is_ignored(tmp_path / "x") is None
    assert trusted_keys(tmp_path) == {} and open_detector(None, unsigned)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trusted_keys(tmp_path) == {}  # as on a client's machine, which needs no git


def test_a_repository_without_keys_requires_no_signature(tmp_path, monkeypatch):
    monkeypatch.delenv("CMB_PUBLIC_KEY", raising=False)
    git(tmp_path, "init", "-q")
    assert trusted_keys(tmp_path) == {} and head_commit(tmp_path) == ""
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "First")
    assert trusted_keys(tmp_path) == {} and len(head_commit(tmp_path)) == 40


def test_the_bundle_of_the_stages_needs_no_signature(site, unsigned):
    assert bundle_keys(site / "models/bundle", site) == {}
    assert list(bundle_keys(unsigned, site)) == ["keys/release.pub"]


def test_the_loader_consults_no_repository(site, unsigned):
    """The current folder requires a signature; a caller that passes no key does not."""
    assert Path.cwd() == site and os.listdir("keys")
    assert load_bundle(unsigned).path == unsigned
