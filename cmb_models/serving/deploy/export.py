"""A model repository that never changes: written whole, read-only, for servers with `--model-control-mode=none`.

No server is asked or told anything. To switch, write another folder and restart the servers on it, one after the other.
"""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, write_json
from cmb_models.serving.deploy.checksums import seal
from cmb_models.serving.deploy.desired import DesiredState
from cmb_models.serving.triton.repository import ROLES, write_configs, write_release

DEPLOYMENT_FILE = "deployment.json"  # {alias: {"release": int, "manifest_sha256": str}}; for people, Triton reads folders alone


def write_immutable(folder: Path, wanted: DesiredState) -> dict[str, str]:
    """Write a repository with every wanted release into a new folder; return what each alias is, in words.

    Raises InputError where the folder is there already, and for a release whose files could not be had.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise InputError(
            "folder-taken",
            folder,
            "a folder that is not there yet",
            "one that is",
            "name another: a written repository stays as it is",
        )
    if wanted.faults:
        got = "; ".join(f"{alias}: {fault}" for alias, fault in wanted.faults.items())
        raise InputError(
            "artifact-missing", folder, "files of every release that an alias names", got, "mend it and run the command again"
        )
    pins = {ensemble: release.pin for ensemble, release in wanted.releases.items()}
    told = {alias: pins[ensemble] for alias, ensemble in ROLES.items() if ensemble in pins}
    with atomic_directory(folder) as temporary:
        for release in wanted.releases.values():
            write_release(temporary, release.bundle, release.pin.release)
        write_configs(temporary, pins)
        said = {alias: {"release": pin.release, "manifest_sha256": pin.manifest_sha256} for alias, pin in told.items()}
        write_json(temporary / DEPLOYMENT_FILE, said)
        seal(temporary)
        for path in sorted(temporary.rglob("*"), reverse=True):
            path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    return {alias: str(pin) for alias, pin in told.items()}
