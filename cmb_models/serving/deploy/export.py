"""Export of an immutable model repository for servers with `--model-control-mode=none`.

No server is contacted. To switch releases, export another folder and restart the servers on it one by one.
"""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, write_json
from cmb_models.serving.deploy.checksums import write_repository_checksums
from cmb_models.serving.deploy.desired import DesiredState
from cmb_models.serving.triton.repository import ROLES, write_configs, write_release

DEPLOYMENT_FILE = "deployment.json"  # {alias: {"release": int, "manifest_sha256": str}}; for people; Triton reads only folders


def write_immutable(folder: Path, desired: DesiredState) -> dict[str, str]:
    """Write a read-only model repository with every desired release.

    Args:
        folder: Folder to create.
        desired: The releases.

    Returns:
        A description of the release of each role.

    Raises:
        InputError: If the folder exists, or files of a release cannot be read.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise InputError(
            "folder-taken",
            folder,
            "a folder that does not exist yet",
            "one that does",
            "name another: an exported repository is immutable",
        )
    if desired.faults:
        got = "; ".join(f"{alias}: {fault}" for alias, fault in desired.faults.items())
        raise InputError(
            "artifact-missing", folder, "files of every release that an alias names", got, "correct this and run the command again"
        )
    pins = {ensemble: release.pin for ensemble, release in desired.releases.items()}
    pin_of_alias = {alias: pins[ensemble] for alias, ensemble in ROLES.items() if ensemble in pins}
    with atomic_directory(folder) as temporary:
        for release in desired.releases.values():
            write_release(temporary, release.bundle, release.pin.release)
        write_configs(temporary, pins)
        content = {alias: {"release": pin.release, "manifest_sha256": pin.manifest_sha256} for alias, pin in pin_of_alias.items()}
        write_json(temporary / DEPLOYMENT_FILE, content)
        write_repository_checksums(temporary)
        for path in sorted(temporary.rglob("*"), reverse=True):
            path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    return {alias: str(pin) for alias, pin in pin_of_alias.items()}
