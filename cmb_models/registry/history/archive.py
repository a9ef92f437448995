"""The write-once archive of all releases that were ever promoted or challengers, with their gate reports, outside of MLflow.

Deleting a run, a version or an artifact in MLflow does not remove what is in production.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, read_json, sha256_of, write_json, write_text

STORE_VARIABLE = "CMB_RELEASES"  # overrides the workspace's folder, e.g. by a share that is backed up
STORE_DIR = "releases"
READ_ONLY = 0o444


def store_folder(workspace: Path) -> Path:
    """The archive folder of this workspace; it need not exist."""
    return Path(os.environ.get(STORE_VARIABLE) or Path(workspace) / STORE_DIR).absolute()


def kept_bundle(workspace: Path, number: int, manifest_sha256: str) -> Path:
    """The folder of a release's archived bundle; it need not exist."""
    return store_folder(workspace) / _name(number, manifest_sha256)


def gate_report(workspace: Path, number: int, manifest_sha256: str, report_sha256: str) -> Path:
    """The file of a release's gate report of that hash; it need not exist."""
    return store_folder(workspace) / f"{_name(number, manifest_sha256)}.gate-{report_sha256[:8]}.json"


def keep(workspace: Path, number: int, bundle: Path, manifest_sha256: str) -> Path:
    """Copy a verified bundle into the archive, read-only; an intact existing copy is left alone.

    Raises:
        InputError: If the archive holds another bundle under this number, or its copy was changed.
    """
    store, folder = store_folder(workspace), kept_bundle(workspace, number, manifest_sha256)
    others = [p.name for p in store.glob(f"{number}-*") if p.is_dir() and p != folder]
    if others:
        got = f"{', '.join(others)} for a release with manifest {manifest_sha256[:8]}"
        raise InputError(
            "release-changed",
            store,
            "an archive without another bundle of this number",
            got,
            f"use another store ({STORE_VARIABLE}) for another registry",
        )
    if folder.exists():
        require_kept(folder, manifest_sha256)
        return folder
    if not (store / ".gitignore").exists():
        write_text(store / ".gitignore", "*\n")  # keeps the git tree clean
    with atomic_directory(folder) as temporary:
        shutil.copytree(bundle, temporary, dirs_exist_ok=True)
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else READ_ONLY)
    return folder


def require_kept(folder: Path, manifest_sha256: str) -> None:
    """Raise InputError unless an archived bundle is byte for byte as it was stored."""
    from cmb_models.release.bundle import verify_manifest  # imports scipy, which listing releases does without

    remedy = "restore it from a backup, or move it away and promote again, which fetches it from the registry"
    try:
        got = verify_manifest(folder)
    except InputError as error:
        raise InputError("release-damaged", folder, "the release as it was archived", error.got, remedy) from error
    if got != manifest_sha256:
        raise InputError("release-changed", folder, f"manifest {manifest_sha256[:12]}", f"manifest {got[:12]}", remedy)


def keep_report(workspace: Path, number: int, manifest_sha256: str, report: dict[str, Any]) -> tuple[Path, str]:
    """Write a gate report next to its release, named by its hash; return the file and its SHA-256."""
    store = store_folder(workspace)
    draft = store / f"{_name(number, manifest_sha256)}.gate.json"
    write_json(draft, report)
    digest = sha256_of(draft)
    file = gate_report(workspace, number, manifest_sha256, digest)
    draft.chmod(READ_ONLY)
    os.replace(draft, file)
    return file, digest


def read_report(workspace: Path, number: int, manifest_sha256: str, report_sha256: str) -> dict[str, Any] | None:
    """An archived gate report; None if it is not in this archive. Raises InputError if it was changed."""
    file = gate_report(workspace, number, manifest_sha256, report_sha256)
    if not file.is_file():
        return None
    if (got := sha256_of(file)) != report_sha256:
        raise InputError(
            "report-changed", file, f"SHA-256 {report_sha256[:12]}, as in the audit log", got[:12], "restore it from a backup"
        )
    return read_json(file)


def _name(number: int, manifest_sha256: str) -> str:
    return f"{number}-{manifest_sha256[:8]}"
