"""The files of the datasets compared with the hashes that `dvc add` recorded.

DVC knows a file by its date and size and trusts the objects of its cache: bits that change on the disk, in the workspace or in the
cache, pass `dvc checkout`, `dvc status` and `dvc repro`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.workspace.dvc_cache import LISTING, cached_object
from cmb_models.workspace.versioning import dvc_outs

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
        if file.is_file() and _md5(file) != md5:
            cached = cached_object(workspace, md5)
            damaged = cached is not None and _md5(cached) != md5
            differing.append(f"{path} (and in DVC's cache, {cached})" if damaged else path)
    return differing


def _recorded(workspace: Path) -> dict[str, str]:
    """The MD5 of each file of the datasets by its path."""
    recorded: dict[str, str] = {}
    for file in sorted(workspace.glob("data/raw/*.dvc")):
        for out in dvc_outs(workspace, file):
            path, md5 = out["path"], out.get("md5", "")
            recorded |= _files_of(workspace, path, md5) if md5.endswith(LISTING) else {path: md5}
    return {path: md5 for path, md5 in recorded.items() if md5}


def _files_of(workspace: Path, folder: str, md5: str) -> dict[str, str]:
    listing = cached_object(workspace, md5)
    if listing is None:
        return {}
    if _md5(listing) != md5.removesuffix(LISTING):
        remedy = f"remove it and run `dvc fetch {folder}.dvc`, or `dvc add {folder}`"
        raise InputError("scan-changed", listing, f"DVC's list of the files in {folder}", "other content", remedy)
    return {f"{folder}/{entry['relpath']}": entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
