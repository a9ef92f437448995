"""Checksum files: JSON that lists a folder's files with their SHA-256; bundles, model repositories and evidence carry one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, write_json


def write_checksums(file: Path, names: Iterable[str], more: Mapping[str, Any] | None = None) -> str:
    """Write a checksum file.

    Args:
        file: The file to write, in the folder whose files it lists.
        names: POSIX paths of the files, relative to that folder.
        more: Further keys next to "files".

    Returns:
        The SHA-256 of the file written.
    """
    write_json(file, {**(more or {}), "files": {name: sha256_of(file.parent / name) for name in sorted(names)}})
    return sha256_of(file)


def read_checksums(file: Path, code: str, remedy: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Read a checksum file.

    Args:
        file: The file.
        code: Of the error.
        remedy: What the error tells to do.

    Returns:
        SHA-256 by file, and the whole content.

    Raises:
        InputError: For one that cannot be read.
    """
    try:
        content = read_json(file)
        return dict(content["files"]), content
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(code, file, "readable checksums", str(error), remedy) from error


def differences(
    folder: Path, listed: Mapping[str, str], found: Collection[str], list_name: str, required: Collection[str] = ()
) -> list[str]:
    """How the files of a folder differ from what is listed.

    Args:
        folder: The folder.
        listed: SHA-256 by file.
        found: The files that are there, all of which must be listed.
        list_name: What the list is called.
        required: What must be there although it may not be listed.

    Returns:
        A phrase for each difference: missing files, then those not listed, then changed ones; [] when all agree.
    """
    found = set(found)
    missing = [f"{name} is missing" for name in sorted({*required, *listed} - found)]
    extra = [f"{name} is not in the {list_name}" for name in sorted(found - set(listed))]
    changed = [f"{name} was changed" for name in sorted(found & set(listed)) if sha256_of(folder / name) != listed[name]]
    return missing + extra + changed
