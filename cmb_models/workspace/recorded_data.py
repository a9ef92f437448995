"""The files of the datasets compared with the hashes that `dvc add` recorded.

DVC knows a file by its date and size and trusts the objects of its cache: bits that change on the disk, in the workspace or in the
cache, pass `dvc checkout`, `dvc status` and `dvc repro`.
"""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.workspace.dvc_cache import DEFAULT_CACHE, LISTING, cache_dir, cached_object, listing, md5_of
from cmb_models.workspace.versioning import datasets_now

SHOWN = 5  # files in a message


def require_recorded(workspace: Path) -> None:
    """Raise InputError naming the files below data/raw that differ from what their .dvc files record.

    A file that is missing is left to DVC, which notices; so is a dataset whose list of files is not in DVC's cache.
    """
    workspace = Path(workspace)
    differing = differing_files(workspace)
    if not differing:
        return
    got = ", ".join(differing[:SHOWN]) + (f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else "")
    remedy = (
        "if you changed them, run `dvc add`; if not, the disk or a copy damaged them: remove them and their objects in DVC's cache"
        " and run `dvc pull`, or copy the originals back"
    )
    raise InputError("scan-changed", workspace, "the files that `dvc add` recorded", f"other content in {got}", remedy)


def differing_files(workspace: Path) -> list[str]:
    """Paths, relative to the workspace, of the files below data/raw whose content differs from what their .dvc files record.

    Ends with the object of DVC's cache where that has changed, too: `dvc checkout` would bring the same file back.
    """
    differing = []
    for path, md5 in _recorded(workspace).items():
        file = workspace / path
        if file.is_file() and md5_of(file) != md5:
            cached = cached_object(workspace, md5)
            damaged = cached is not None and md5_of(cached) != md5
            differing.append(f"{path} (and in DVC's cache, {cached})" if damaged else path)
    return differing


def _recorded(workspace: Path) -> dict[str, str]:
    """The MD5 of each file of the datasets by its path."""
    recorded: dict[str, str] = {}
    for path, md5 in datasets_now(workspace).items():
        files = _files_of(workspace, md5) if md5.endswith(LISTING) else {"": md5}
        recorded |= {Path(path, name).as_posix(): file_md5 for name, file_md5 in files.items() if file_md5}
    return recorded


def _files_of(workspace: Path, md5: str) -> dict[str, str]:
    return listing(workspace / DEFAULT_CACHE, md5) or listing(cache_dir(workspace), md5) or {}
