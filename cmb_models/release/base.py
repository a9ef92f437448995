"""The base release that the package ships: its files, the key that verifies them, and its description.

What the signature is worth: the public key lies next to the bundle, so anyone who can replace the bundle can replace the key too.
It shows that key and bundle belong together and that no file was changed since the bundle was signed, no more. That both are
those of this project follows from the origin of the package: the commit, or the wheel and its checksums. A site that commits a
copy of the key to its workspace's keys/ trusts the signer from then on, whatever a later package contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmb_models import base_release
from cmb_models.config.params import RANDOM_RECIPE
from cmb_models.errors import InputError
from cmb_models.release.bundle import Bundle, BundleDetector, load_bundle


def base_bundle(folder: Path | None = None) -> Path:
    """The bundle's folder below `folder`, the package's if None; not verified. Raises InputError if there is none."""
    bundle = _folder(folder) / base_release.BUNDLE
    if not base_release.is_shipped(folder):
        remedy = f"install a release of cmb-models, name a bundle folder, or train with train.init_from: random and {RANDOM_RECIPE}"
        raise InputError("base-release-missing", "base release", f"a bundle in {bundle}", "none in this build", remedy)
    return bundle


def base_keys(folder: Path | None = None) -> dict[str, bytes]:
    """The public key (PEM by name) next to the bundle, for callers without trusted keys of their own; see the module's docstring.

    Raises InputError if it is missing: without a key no signature would be required.
    """
    file = _folder(folder) / base_release.PUBLIC_KEY
    if not file.is_file():
        raise InputError("key-missing", file, "the public key of the base release", "no such file", "install cmb-models again")
    return {file.name: file.read_bytes()}


def load_base(trusted_keys: Mapping[str, bytes] | None = None, folder: Path | None = None) -> Bundle:
    """Verify the base release, checksums and signature, and read its settings.

    Args:
        trusted_keys: Public keys (PEM by name), one of which must have signed it; the one next to the bundle if None or empty.
        folder: Folder with the bundle and its key; the package's if None.

    Raises:
        InputError: If there is no base release, or as `load_bundle`.
    """
    bundle = base_bundle(folder)
    return load_bundle(bundle, trusted_keys or base_keys(folder))


def open_base(
    threads: int = 0, trusted_keys: Mapping[str, bytes] | None = None, device: str = "cpu", folder: Path | None = None
) -> BundleDetector:
    """Open the base release as a detector, whose results carry its description.

    Args:
        threads: As of BundleDetector.
        trusted_keys: As of `load_base`.
        device: As of BundleDetector.
        folder: As of `load_base`.

    Raises:
        InputError: As both.
    """
    bundle = base_bundle(folder)
    detector = BundleDetector(bundle, threads, trusted_keys or base_keys(folder), device)
    detector.origin = describe(detector.bundle.metadata)
    return detector


def describe(metadata: Mapping[str, Any]) -> str:
    """How results name the base release. metadata: of its metadata.json, whose version is that of the package it was made with."""
    return f"base release {metadata.get('version', 'of unknown version')}, trained on simulated scans only"


def _folder(folder: Path | None) -> Path:
    return base_release.FOLDER if folder is None else Path(folder)
