"""Signatures of releases, made offline with a site's EC key by `model-signing` and verified when a release is opened.

Trusted keys are an argument; release/keys.py finds them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from cmb_models.errors import InputError

SIGNATURE_FILE = "model.sig"  # signs all other files including the manifest, which therefore cannot list it


def sign_bundle(folder: Path, key: Path) -> None:
    """Write model.sig into a bundle with a complete manifest: a signature of all other files."""
    signing, hashing = _library("signing", folder), _library("hashing", folder)
    folder = Path(folder)
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE_FILE]))
    config.sign(folder, folder / SIGNATURE_FILE)


def require_signature(folder: Path, trusted_keys: Mapping[str, bytes]) -> None:
    """Reject a bundle without a valid signature by one of the trusted keys.

    Together with verify_manifest, which rejects unlisted files, this covers every byte.

    Args:
        folder: The bundle.
        trusted_keys: PEM by name, as `release.keys.trusted_keys` finds them; {} requires no signature.

    Raises:
        InputError: For a bundle that is unsigned, signed by another key, or changed since.
    """
    if trusted_keys:
        verify_signature(folder, trusted_keys)


def verify_signature(folder: Path, keys: Mapping[str, bytes]) -> str:
    """Verify a bundle's model.sig with the key of `keys` (PEM by name) that made it; return that key's name."""
    folder = Path(folder)
    file = folder / SIGNATURE_FILE
    expected = f"a signature by {names(keys)}"
    if not file.is_file():
        raise InputError(
            "signature-missing",
            folder,
            expected,
            f"no {SIGNATURE_FILE}",
            "register it again with the signing key, or use a signed release",
        )
    signer = _signer(file)
    name = next((n for n, pem in keys.items() if signer and key_hash(pem) == signer), None)
    if name is None:
        got = f"one by another key ({signer[:12] or 'unreadable'})"
        raise InputError(
            "signature-invalid", folder, expected, got, "use a release that this site signed, or commit that key if it is trusted"
        )
    verifying = _library("verifying", folder)
    with tempfile.TemporaryDirectory() as scratch:
        public_file = Path(scratch) / "key.pub"
        public_file.write_bytes(keys[name])
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=public_file).verify(folder, file)
        except Exception as error:  # ValueError and types of cryptography and protobuf all mean an invalid signature
            got = _difference(str(error)) or f"an invalid signature ({type(error).__name__})"
            raise InputError(
                "bundle-changed", folder, f"the files that {name} signed", got, "fetch the release again, or restore it"
            ) from error
    return name


def _difference(message: str) -> str:
    """The changed files in an error of model-signing, which also prints digests as bytes; "" if it names no file."""
    changed = re.findall(r"Hash mismatch for \\*'([^'\\]+)\\*'", message)
    extra, missing = (re.findall(kind + r" files[^:]*: ([^\"\[]+)", message) for kind in ("Extra", "Missing"))
    words = [f"{name} changed" for name in changed]
    return "; ".join([*words, *(f"{names} added" for names in extra), *(f"{names} missing" for names in missing)])


def _signer(file: Path) -> str:
    """SHA-256 of the public key (PEM) that a signature claims; "" if unreadable."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["verificationMaterial"]["publicKey"]["hint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def key_hash(pem: bytes) -> str:
    """SHA-256 of a public key in the form that signatures use; "" for an invalid key."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        return ""
    canonical = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(canonical).hexdigest()


def names(keys: Mapping[str, bytes]) -> str:
    """The names of keys in one line."""
    return ", ".join(sorted(keys))


def _library(part: str, folder: Path) -> ModuleType:
    """Import a module of model-signing, which is optional where no signature is required."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{part}")
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[detect]', or open it in the project's environment"
        raise InputError(
            "package-missing", folder, "model-signing, to check its signature", f"no module {error.name}", remedy
        ) from error
