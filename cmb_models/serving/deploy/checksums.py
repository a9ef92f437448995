"""Checksums of an exported model repository, written on export and verified before serving.

The checksum file `seal.json` lists the SHA-256 of each file; its own hash identifies the repository. In a pod an init container
runs `python3 -m cmb_models.serving.deploy.checksums SOURCE TARGET`, which verifies the final copy.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, read_json, sha256_of
from cmb_models.release.checksums import require_listed, write_checksums

CHECKSUM_FILE = "seal.json"
EXPECTED = "CMB_SEAL_SHA256"  # expected hash of the checksum file; without it a replaced folder goes unnoticed


def write_repository_checksums(repository: Path) -> str:
    """Write seal.json for all files of a repository and its empty folders; return its SHA-256. Call it last."""
    repository = Path(repository)
    return write_checksums(repository / CHECKSUM_FILE, _files(repository), {"folders": sorted(_folders(repository))})


def verify(repository: Path, expected_sha256: str = "") -> str:
    """Compare a repository with its checksum file; return that file's SHA-256. Raises InputError with all faults."""
    repository, remedy = Path(repository), "write the repository again with `cmb server deploy`"
    if not (repository / CHECKSUM_FILE).is_file():
        raise InputError("repository-incomplete", repository, f"a repository with a {CHECKSUM_FILE}", "none", remedy)
    digest = sha256_of(repository / CHECKSUM_FILE)
    if expected_sha256 and digest != expected_sha256:
        raise InputError(
            "repository-changed",
            repository,
            f"checksum file {expected_sha256[:12]}",
            digest[:12],
            f"correct {EXPECTED} or the source",
        )
    require_listed(repository / CHECKSUM_FILE, ("repository-damaged", "repository-changed"), _files(repository), remedy)
    return digest


def copy_verified(source: Path, target: Path, expected_sha256: str = "") -> str:
    """Copy a repository to `target`, atomically and only if the copy passes `verify`; return the checksum file's SHA-256.

    Object stores keep no empty folders; those that the checksum file lists are created before verification.
    """
    source, target = Path(source), Path(target)
    if not (source / CHECKSUM_FILE).is_file():
        raise InputError(
            "repository-incomplete", source, f"a repository with a {CHECKSUM_FILE}", "none", "check what is mounted or was fetched"
        )
    with atomic_directory(target) as copy:
        # File by file: copied read-only folders could not be replaced by the next copy.
        for name in sorted({*_files(source), CHECKSUM_FILE}):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
        for name in read_json(copy / CHECKSUM_FILE).get("folders", ()):
            if (copy / name).resolve().is_relative_to(copy.resolve()):
                (copy / name).mkdir(parents=True, exist_ok=True)
        return verify(copy, expected_sha256)


def _files(folder: Path) -> set[str]:
    """All files but the checksum file and those that begin with a dot, such as a deployment's lock: Triton reads neither."""
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    return {n.as_posix() for n in names if n.as_posix() != CHECKSUM_FILE and not any(part.startswith(".") for part in n.parts)}


def _folders(folder: Path) -> set[str]:
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_dir()}
    return {n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts)}


def main(arguments: Sequence[str]) -> int:
    """SOURCE TARGET: copy and verify a repository; FOLDER alone: verify it. Returns 2 on failure, with a line on stderr."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python3 -m cmb_models.serving.deploy.checksums SOURCE [TARGET]\n")
        return 2
    try:
        expected = os.environ.get(EXPECTED, "")
        folders = [Path(a) for a in arguments]
        digest = copy_verified(folders[0], folders[1], expected) if len(folders) == 2 else verify(folders[0], expected)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{arguments[-1]}: verified against checksum file {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
