"""Checksum files: JSON with the SHA-256 of a folder's files, used by bundles, model repositories and audit packages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json


def write_checksums(file: Path, names: Iterable[str], more: Mapping[str, Any] | None = None) -> str:
    """Write a checksum file into the folder whose files it lists.

    Args:
        file: The file to write.
        names: POSIX paths of the listed files, relative to the folder.
        more: Further keys next to "files".

    Returns:
        The SHA-256 of the file written.
    """
    write_json(file, {**(more or {}), "files": {name: sha256_of(file.parent / name) for name in sorted(names)}})
    return sha256_of(file)


def require_listed(file: Path, codes: tuple[str, str], found: Collection[str], remedy: str, required: Collection[str] = ()) -> None:
    """Compare a folder with the checksum file in it, whose key "folders", if any, lists folders that must exist.

    Args:
        file: The checksum file.
        codes: Error codes for an unreadable file and for differences.
        found: POSIX paths of the files in the folder, all of which must be listed.
        remedy: The errors' remedy.
        required: Paths that must exist whether listed or not.

    Raises:
        InputError: For an unreadable file, and listing all files that are missing, not listed or changed.
    """
    folder, name = file.parent, file.stem
    try:
        content = read_json(file)
        listed = dict(content["files"])
        folders = {path for path in content.get("folders", ()) if not (folder / path).is_dir()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(codes[0], file, f"a readable {name}", str(error), remedy) from error
    found = set(found)
    faults = [f"{path} is missing" for path in sorted(({*required, *listed} - found) | folders)]
    faults += [f"{path} is not in the {name}" for path in sorted(found - set(listed))]
    faults += [f"{path} was changed" for path in sorted(found & set(listed)) if sha256_of(folder / path) != listed[path]]
    if faults:
        raise InputError(codes[1], folder, f"the files its {name} lists", "; ".join(faults), remedy)
