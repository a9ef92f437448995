"""Datasets of any commit, read from their `.dvc` files and DVC's cache without checking them out.

A `.dvc` file names the MD5 of a listing; the cache keeps this listing, as JSON, and every file under its MD5.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.workspace.paths import RAW
from cmb_models.workspace.versioning import dvc_outs, file_at, files_at

DEFAULT_CACHE = ".dvc/cache"
LISTING = ".dir"  # ends the MD5 of a folder's listing


@cache
def cache_dir(workspace: Path) -> Path:
    """The folder of DVC's cache, which the workspace's DVC settings may put elsewhere. Raises InputError if DVC fails."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=workspace, text=True, capture_output=True, check=False)
    if done.returncode:
        got = " ".join((done.stderr or done.stdout).split())[-300:]
        raise InputError("dvc-failed", workspace, "a working `dvc cache dir`", got, "repair the DVC setup")
    return (workspace / (done.stdout.strip() or DEFAULT_CACHE)).resolve()


def cached(folder: Path, md5: str) -> Path | None:
    """The file with this MD5 in a cache; None if it is not there. DVC 2 kept it directly below the cache's folder."""
    places = (folder / "files/md5" / md5[:2] / md5[2:], folder / md5[:2] / md5[2:])
    return next((place for place in places if md5 and place.is_file()), None)


def cached_out(workspace: Path, path: str, md5: str) -> Path | None:
    """The file with this MD5: from DVC's cache, else the workspace's file if its content still has it; None if neither has it."""
    file = workspace / path
    if found := cached(workspace / DEFAULT_CACHE, md5):
        return found
    if file.is_file() and md5_of(file) == md5:
        return file
    return cached(cache_dir(workspace), md5)


def cached_object(workspace: Path, md5: str) -> Path | None:
    """The file with this MD5 in a workspace's cache, whose content is not verified; None if it is not there."""
    return cached(workspace / DEFAULT_CACHE, md5) or cached(cache_dir(workspace), md5)


def datasets_at(workspace: Path, commit: str) -> dict[str, str]:
    """MD5 of each path that a .dvc file in data/raw tracked at a commit. Raises InputError when git fails."""
    found: dict[str, str] = {}
    for file in files_at(workspace, commit, RAW.as_posix()):
        if file.endswith(".dvc"):
            found |= dvc_outs(file_at(workspace, commit, file) or b"", Path(file).parent)
    return found


def listing(cache: Path, md5: str) -> dict[str, str] | None:
    """MD5 by path of a folder's files, by the MD5 of its listing; None if the cache lacks the listing.

    Raises:
        InputError: If the cache's listing has changed.
    """
    file = cached(cache, md5)
    if file is None:
        return None
    if md5_of(file) != md5.removesuffix(LISTING):
        remedy = "remove it and run `dvc fetch`, or `dvc add` the dataset"
        raise InputError("scan-changed", file, "DVC's list of the files of a dataset", "other content", remedy)
    return {entry["relpath"]: entry["md5"] for entry in read_json(file)}


def md5_of(file: Path) -> str:
    """MD5 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
