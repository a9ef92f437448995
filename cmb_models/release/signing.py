"""Signatures of releases: made offline with a site's own EC key by `model-signing`, checked wherever a release is opened.

A workspace that commits a public key (keys/*.pub) thereby requires them. The keys that count are those of the commit checked out:
neither a file laid beside them nor one taken away changes what is required. Several keys may be valid at once, so that a key can be
replaced while older releases stay usable; to withdraw one, delete it and commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.release.bundle import SIGNATURE_FILE
from cmb_models.workspace.versioning import find_workspace, git_lines, is_ignored

KEY_VARIABLE, PUBLIC_VARIABLE = "CMB_SIGNING_KEY", "CMB_PUBLIC_KEY"
KEYS_DIR, KEY_FILE, PUBLIC_FILE = "keys", "release.key", "release.pub"
PRIVATE_MODE = 0o600


def new_keys(folder: Path) -> tuple[Path, Path]:
    """Make an EC key pair (P-256, PEM, no passphrase) in `folder`; return the paths of the private and the public key.

    The private key is readable by its owner alone. Raises InputError where one of the files is there already, and for a private key
    that git would see.
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
    """Write a file that must not be there yet, with its mode from the first byte on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def public_pem(private_file: Path) -> bytes:
    """The public half of a private key's file, as PEM. Raises InputError for a file that holds none."""
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
    """The private key that CMB_SIGNING_KEY names, else the workspace's own keys/release.key; None without either.

    Raises InputError for a named one that is missing and for one that others can read.
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
    """Public keys (PEM) by name: keys/*.pub of the commit checked out around `start`, and the file that CMB_PUBLIC_KEY names.

    {} where no signature is required. The variable is for hosts without a workspace.
    """
    keys: dict[str, bytes] = {}
    if shutil.which("git"):
        try:
            workspace = find_workspace(Path(start))
        except InputError:
            workspace = None
        if workspace is not None:
            for name in git_lines(workspace, "ls-tree", "--name-only", "HEAD", f"{KEYS_DIR}/"):
                if name.endswith(".pub"):
                    keys[name] = "\n".join([*git_lines(workspace, "show", f"HEAD:{name}"), ""]).encode()
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


def require_key(workspace: Path) -> Path | None:
    """The key to sign a new release with; None where there is none and none is needed.

    Raises InputError where signatures are required and the private key is missing or is not a trusted one's.
    """
    keys, key = trusted_keys(workspace), signing_key(workspace)
    if keys and key is None:
        remedy = f"set {KEY_VARIABLE} to the private key's file"
        raise InputError("key-missing", workspace, f"a key to sign with, since it has {_names(keys)}", "none", remedy)
    if keys and _key_hash(public_pem(key)) not in {_key_hash(pem) for pem in keys.values()}:
        remedy = f"commit its public half in {KEYS_DIR}/, or sign with a key that is there"
        raise InputError("key-wrong", key, f"the private half of {_names(keys)}", "another key", remedy)
    return key


def sign_bundle(folder: Path, key: Path) -> None:
    """Write model.sig into a bundle with a complete manifest: a signature over every other file."""
    signing, hashing = _library("signing", folder), _library("hashing", folder)
    folder = Path(folder)
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE_FILE]))
    config.sign(folder, folder / SIGNATURE_FILE)


def require_signature(folder: Path, start: Path = Path(".")) -> None:
    """Refuse a bundle without a valid signature by a key that `start` trusts; nothing is asked for where it trusts none.

    Raises InputError for a bundle that is unsigned, signed by another key, or changed since. Together with verify_manifest, which
    refuses files that no manifest lists, this covers every byte.
    """
    keys = trusted_keys(start)
    if keys:
        verify_signature(folder, keys)


def verify_signature(folder: Path, keys: Mapping[str, bytes]) -> str:
    """Check a bundle's model.sig with whichever of `keys` (PEM by name) made it; return that key's name."""
    folder = Path(folder)
    file = folder / SIGNATURE_FILE
    wanted = f"a signature by {_names(keys)}"
    if not file.is_file():
        raise InputError(
            "signature-missing",
            folder,
            wanted,
            f"no {SIGNATURE_FILE}",
            "register it again with the signing key, or use a signed release",
        )
    signer = _signer(file)
    name = next((n for n, pem in keys.items() if _key_hash(pem) == signer), None)
    if name is None:
        got = f"one by another key ({signer[:12] or 'unreadable'})"
        raise InputError(
            "signature-invalid", folder, wanted, got, "use a release that this site signed, or commit that key if it is trusted"
        )
    verifying = _library("verifying", folder)
    with tempfile.TemporaryDirectory() as scratch:
        public_file = Path(scratch) / "key.pub"
        public_file.write_bytes(keys[name])
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=public_file).verify(folder, file)
        except Exception as error:  # the library raises ValueError, cryptography's and protobuf's own; all mean: not as signed
            got = _difference(str(error)) or f"a false signature ({type(error).__name__})"
            raise InputError(
                "bundle-changed", folder, f"the files that {name} signed", got, "fetch the release again, or restore it"
            ) from error
    return name


def _difference(message: str) -> str:
    """What model-signing found changed, in words: it prints whole digests as bytes. "" when it named no file."""
    changed = re.findall(r"Hash mismatch for \\*'([^'\\]+)\\*'", message)
    extra, missing = (re.findall(kind + r" files[^:]*: ([^\"\[]+)", message) for kind in ("Extra", "Missing"))
    words = [f"{name} changed" for name in changed]
    return "; ".join([*words, *(f"{names} added" for names in extra), *(f"{names} missing" for names in missing)])


def _signer(file: Path) -> str:
    """SHA-256 of the public key (PEM) that a signature says it was made with; "" when it cannot be read."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["verificationMaterial"]["publicKey"]["hint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _key_hash(pem: bytes) -> str:
    """SHA-256 of a public key in the one form that signatures name it by; "" for a file that holds none."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        return ""
    canonical = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(canonical).hexdigest()


def _names(keys: Mapping[str, bytes]) -> str:
    return ", ".join(sorted(keys))


def _library(part: str, folder: Path):
    """A module of model-signing. A small environment does without, and then cannot open what must be signed."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{part}")
    except ModuleNotFoundError as error:
        remedy = "install model-signing and pyopenssl, or open it in the project's own environment"
        raise InputError(
            "package-missing", folder, "model-signing, to check its signature", f"no module {error.name}", remedy
        ) from error
