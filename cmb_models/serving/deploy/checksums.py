"""A model repository that travels: sealed where it is written, checked where it is served.

A sealed folder holds `seal.json`, the SHA-256 of each of its files; the hash of seal.json names the whole. In a pod an init
container runs `python3 -m cmb_models.serving.deploy.checksums SOURCE TARGET`: what is loaded was checked after its last copy.
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

SEAL_FILE = "seal.json"
EXPECTED = "CMB_SEAL_SHA256"  # what the seal's own hash must be; without it a folder that was replaced as a whole goes unnoticed


def seal(repository: Path) -> str:
    """Write seal.json over all files of a repository, folders without files included; return its SHA-256. Call it last."""
    repository = Path(repository)
    return write_checksums(repository / SEAL_FILE, _files(repository), {"folders": sorted(_folders(repository))})


def check(repository: Path, expected_sha256: str = "") -> str:
    """Compare a repository with its seal; return the seal's SHA-256. Raises InputError with all faults."""
    repository, remedy = Path(repository), "write the repository again with `cmb server deploy`"
    if not (repository / SEAL_FILE).is_file():
        raise InputError("repository-incomplete", repository, f"a repository with a {SEAL_FILE}", "none", remedy)
    digest = sha256_of(repository / SEAL_FILE)
    if expected_sha256 and digest != expected_sha256:
        raise InputError(
            "repository-changed", repository, f"the seal {expected_sha256[:12]}", digest[:12], f"correct {EXPECTED} or the source"
        )
    require_listed(repository / SEAL_FILE, ("repository-damaged", "repository-changed"), _files(repository), remedy)
    return digest


def take(source: Path, target: Path, expected_sha256: str = "") -> str:
    """Copy a sealed repository into `target`, which a copy that fails its check never becomes. Returns the seal's SHA-256.

    Object stores keep no empty folders; those that the seal names are made again before the check.
    """
    source, target = Path(source), Path(target)
    if not (source / SEAL_FILE).is_file():
        raise InputError(
            "repository-incomplete", source, f"a repository with a {SEAL_FILE}", "none", "look at what is mounted or was fetched"
        )
    with atomic_directory(target) as copy:
        # File by file, so that read-only folders of the source do not become ones that the next copy could not replace.
        for name in sorted({*_files(source), SEAL_FILE}):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
        for name in read_json(copy / SEAL_FILE).get("folders", ()):
            if (copy / name).resolve().is_relative_to(copy.resolve()):
                (copy / name).mkdir(parents=True, exist_ok=True)
        return check(copy, expected_sha256)


def _files(folder: Path) -> set[str]:
    """All files but the seal and those that begin with a dot, such as a deployment's lock: Triton reads neither."""
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    return {n.as_posix() for n in names if n.as_posix() != SEAL_FILE and not any(part.startswith(".") for part in n.parts)}


def _folders(folder: Path) -> set[str]:
    names = {p.relative_to(folder) for p in folder.rglob("*") if p.is_dir()}
    return {n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts)}


def main(arguments: Sequence[str]) -> int:
    """SOURCE TARGET: take a repository; FOLDER alone: check it. 2 and one line on stderr when it is not what its seal says."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python3 -m cmb_models.serving.deploy.checksums SOURCE [TARGET]\n")
        return 2
    try:
        expected = os.environ.get(EXPECTED, "")
        folders = [Path(a) for a in arguments]
        digest = take(folders[0], folders[1], expected) if len(folders) == 2 else check(folders[0], expected)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{arguments[-1]}: as its seal {digest} says\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
