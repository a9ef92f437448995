"""A site's signing keys: lookup of the private key and of the trusted public keys.

A workspace that commits a public key (keys/*.pub) thereby requires signatures. Only keys in the checked-out commit count, so
uncommitted files in keys/ have no effect. Several keys may be valid at once, so that a key can be replaced while older releases
stay usable; to withdraw one, delete it and commit.
"""

from __future__ import annotations

import os
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.release.signing import key_hash, names
from cmb_models.workspace.paths import BUNDLE
from cmb_models.workspace.versioning import file_at, files_at, head_commit, is_ignored, workspace_around

KEY_VARIABLE, PUBLIC_VARIABLE = "CMB_SIGNING_KEY", "CMB_PUBLIC_KEY"
KEYS_DIR, KEY_FILE, PUBLIC_FILE = "keys", "release.key", "release.pub"
PRIVATE_MODE = 0o600


def new_keys(folder: Path) -> tuple[Path, Path]:
    """Create an EC key pair (P-256, PEM, no passphrase) in `folder`; return the paths of the private and the public key.

    Only the owner can read the private key.

    Raises:
        InputError: If one of the files exists, and for a private key that git would not ignore.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private_file, public_file = Path(folder) / KEY_FILE, Path(folder) / PUBLIC_FILE
    for file in (private_file, public_file):
        if file.exists():
            raise InputError(
                "folder-taken",
                file,
                "a folder without keys",
                "one that has this file",
                "name another: old releases need the old key",
            )
    Path(folder).mkdir(parents=True, exist_ok=True)
    if is_ignored(private_file) is False:
        got = "one that git would take into a commit"
        raise InputError(
            "key-in-git", private_file, "a place for a secret", got, f"name a folder outside of the clone, or `{KEYS_DIR}`"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    encryption, plain = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    _write_new(private_file, key.private_bytes(serialization.Encoding.PEM, plain, encryption), PRIVATE_MODE)
    _write_new(public_file, public_pem(private_file), 0o644)
    return private_file, public_file


def _write_new(file: Path, content: bytes, mode: int) -> None:
    """Write a new file, created with its final mode."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def public_pem(private_file: Path) -> bytes:
    """The public key (PEM) of a private key's file. Raises InputError for a file without a usable key."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(Path(private_file).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        got = " ".join(str(error).split())[:120]
        raise InputError(
            "key-unusable", private_file, "a private EC key without a passphrase", got, "make one with `cmb keys create FOLDER`"
        ) from error
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_key(workspace: Path) -> Path | None:
    """The private key that CMB_SIGNING_KEY names, else the workspace's keys/release.key; None without either.

    Raises:
        InputError: For a named key that is missing, and for a key that other users can read.
    """
    named = os.environ.get(KEY_VARIABLE)
    file = Path(named) if named else Path(workspace) / KEYS_DIR / KEY_FILE
    if not file.is_file():
        if named:
            raise InputError(
                "key-missing", file, f"the private key that {KEY_VARIABLE} names", "no such file", "correct or unset the variable"
            )
        return None
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            "key-exposed", file, "a private key for its owner alone (mode 600)", f"mode {mode:o}", f"run `chmod 600 {file}`"
        )
    return file


def trusted_keys(start: Path) -> dict[str, bytes]:
    """Public keys, one of which must have signed a release.

    Resolved once by the caller that opens a release for use (a command, the registry, a deployment), and passed on.

    Args:
        start: A folder inside the workspace whose commit counts.

    Returns:
        PEM by name: keys/*.pub of the commit checked out around `start`, and the file that CMB_PUBLIC_KEY names, for hosts without
        a workspace. {}, which requires no signature, only without that variable and either without a git repository around
        `start` or without a key in its commit.

    Raises:
        InputError: If git fails, and for a variable that names no file.
    """
    keys: dict[str, bytes] = {}
    workspace = workspace_around(start)
    if workspace is not None and (commit := head_commit(workspace)):
        for name in files_at(workspace, commit, KEYS_DIR):
            if name.endswith(".pub"):
                keys[name] = file_at(workspace, commit, name) or b""
    named = os.environ.get(PUBLIC_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise InputError(
                "key-missing",
                named,
                f"the public key that {PUBLIC_VARIABLE} names",
                "no such file",
                "correct or unset the variable",
            )
        keys[named] = Path(named).read_bytes()
    return keys


def bundle_keys(bundle: Path, start: Path) -> dict[str, bytes]:
    """Public keys, one of which must have signed a bundle folder.

    Args:
        bundle: The bundle's folder.
        start: A folder inside the workspace whose commit counts.

    Returns:
        {} for the bundle that the stages of that workspace write, which is not a release yet and is tracked by DVC; else
        `trusted_keys`.

    Raises:
        InputError: As `trusted_keys`.
    """
    workspace = workspace_around(start)
    if workspace is not None and Path(bundle).resolve() == (workspace / BUNDLE).resolve():
        return {}
    return trusted_keys(start)


def require_key(workspace: Path) -> Path | None:
    """The key to sign a new release with; None if there is none and none is required.

    Raises:
        InputError: If signatures are required and the private key is missing or not that of a trusted key.
    """
    keys, key = trusted_keys(workspace), signing_key(workspace)
    if not keys:
        return key
    if key is None:
        remedy = f"set {KEY_VARIABLE} to the private key's file"
        raise InputError("key-missing", workspace, f"a key to sign with, since it has {names(keys)}", "none", remedy)
    if key_hash(public_pem(key)) not in {key_hash(pem) for pem in keys.values()}:
        remedy = f"commit its public key to {KEYS_DIR}/, or sign with a key that is committed"
        raise InputError("key-wrong", key, f"the private key of {names(keys)}", "another key", remedy)
    return key
