"""Signatures of bundles by a real key: valid ones pass, all else is refused in a sentence."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cmb_models.release.bundle import load_bundle, verify_manifest, write_manifest
from cmb_models.release.keys import new_keys, require_key, signing_key, trusted_keys
from cmb_models.release.signing import require_signature, sign_bundle, verify_signature
from tests.integration.registry_workspace import git
from tests.support.bundles import make_bundle
from tests.support.refused import refused


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return new_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def bundle(tmp_path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def workspace(tmp_path, pair, monkeypatch) -> Path:
    """A clone whose commit holds the public key."""
    monkeypatch.delenv("CMB_SIGNING_KEY", raising=False)
    monkeypatch.delenv("CMB_PUBLIC_KEY", raising=False)
    folder = tmp_path / "site"
    (folder / "keys").mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "config", "user.email", "engineer@site.example")
    git(folder, "config", "user.name", "Site Engineer")
    (folder / "keys/release.pub").write_bytes(pair[1].read_bytes())
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Releases are signed")
    return folder


def test_the_private_key_is_for_its_owner_and_is_never_replaced(pair):
    assert stat.S_IMODE(pair[0].stat().st_mode) == 0o600
    with refused("folder-taken"):
        new_keys(pair[0].parent)


def test_a_private_key_that_git_would_commit_is_refused(workspace):
    with refused("key-in-git"):
        new_keys(workspace / "secret")
    assert not (workspace / "secret/release.key").exists()
    (workspace / ".gitignore").write_text("/ours/*.key\n")
    assert new_keys(workspace / "ours")[0].is_file()


def test_a_signed_bundle_passes_and_keeps_its_manifest(bundle, pair, workspace):
    before = verify_manifest(bundle)
    sign_bundle(bundle, pair[0])
    require_signature(bundle, trusted_keys(workspace))
    assert verify_signature(bundle, trusted_keys(workspace)) == "keys/release.pub"
    assert load_bundle(bundle).manifest_sha256 == before == write_manifest(bundle)


def test_an_unsigned_bundle_is_refused_where_a_key_is_committed_and_taken_elsewhere(bundle, workspace, tmp_path):
    with refused("signature-missing", case="bundle", got=r"model\.sig"):
        require_signature(bundle, trusted_keys(workspace))
    require_signature(bundle, trusted_keys(tmp_path))


def test_a_signature_by_another_key_is_refused(bundle, workspace, tmp_path):
    sign_bundle(bundle, new_keys(tmp_path / "other")[0])
    with refused("signature-invalid", case="bundle"):
        require_signature(bundle, trusted_keys(workspace))


def test_a_forged_name_of_the_signer_is_refused(bundle, pair, workspace, tmp_path):
    sign_bundle(bundle, pair[0])
    hint = json.loads((bundle / "model.sig").read_text())["verificationMaterial"]["publicKey"]["hint"]
    sign_bundle(bundle, new_keys(tmp_path / "other")[0])
    signature = json.loads((bundle / "model.sig").read_text())
    signature["verificationMaterial"]["publicKey"]["hint"] = hint
    (bundle / "model.sig").write_text(json.dumps(signature))
    with refused("bundle-changed", got="InvalidSignature"):
        require_signature(bundle, trusted_keys(workspace))


@pytest.mark.parametrize("name", ["unet.onnx", "manifest.json", "golden/answer.json"])
def test_one_changed_byte_is_refused_though_the_manifest_fits(bundle, pair, workspace, name):
    sign_bundle(bundle, pair[0])
    content = bytearray((bundle / name).read_bytes())
    content[-2] ^= 1
    (bundle / name).write_bytes(content)
    if name != "manifest.json":
        write_manifest(bundle)
    with refused("bundle-changed", got=f"{name} changed"):
        require_signature(bundle, trusted_keys(workspace))


def test_a_file_added_with_a_fitting_manifest_is_refused(bundle, pair, workspace):
    sign_bundle(bundle, pair[0])
    (bundle / "extra.py").write_text("")
    with refused("bundle-changed", got=r"^extra\.py added$"):
        require_signature(bundle, trusted_keys(workspace))


def test_a_damaged_signature_is_refused(bundle, pair, workspace):
    sign_bundle(bundle, pair[0])
    (bundle / "model.sig").write_text("{}")
    with refused("signature-invalid", got="unreadable"):
        require_signature(bundle, trusted_keys(workspace))


def test_only_the_commit_decides_which_keys_count(bundle, workspace, tmp_path):
    key, public = new_keys(tmp_path / "other")
    (workspace / "keys/release.pub").unlink()
    (workspace / "keys/mine.pub").write_bytes(public.read_bytes())
    sign_bundle(bundle, key)
    with refused("signature-invalid"):
        require_signature(bundle, trusted_keys(workspace))
    git(workspace, "checkout", "-q", "keys/release.pub")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "A second key")
    assert verify_signature(bundle, trusted_keys(workspace)) == "keys/mine.pub"


def test_a_host_without_a_workspace_names_the_key_it_trusts(bundle, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("CMB_PUBLIC_KEY", str(pair[1]))
    with refused("signature-missing", got=r"model\.sig"):
        require_signature(bundle, trusted_keys(tmp_path))
    sign_bundle(bundle, pair[0])
    require_signature(bundle, trusted_keys(tmp_path))
    monkeypatch.setenv("CMB_PUBLIC_KEY", "nowhere.pub")
    with refused("key-missing", case=r"nowhere\.pub"):
        require_signature(bundle, trusted_keys(tmp_path))


def test_the_key_to_sign_with_must_be_private_and_a_trusted_one(workspace, pair, tmp_path, monkeypatch):
    with refused("key-missing"):
        require_key(workspace)
    monkeypatch.setenv("CMB_SIGNING_KEY", str(pair[0]))
    assert require_key(workspace) == pair[0]
    monkeypatch.setenv("CMB_SIGNING_KEY", str(new_keys(tmp_path / "other")[0]))
    with refused("key-wrong"):
        require_key(workspace)
    readable = tmp_path / "readable.key"
    readable.write_bytes(pair[0].read_bytes())
    readable.chmod(0o644)
    monkeypatch.setenv("CMB_SIGNING_KEY", str(readable))
    with refused("key-exposed", got="mode 644"):
        signing_key(workspace)
    monkeypatch.setenv("CMB_SIGNING_KEY", str(tmp_path / "none"))
    with refused("key-missing"):
        signing_key(workspace)
