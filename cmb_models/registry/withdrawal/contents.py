"""The files below data/raw, and the hashes of its images by which copies are found."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of, system_reason
from cmb_models.io.nifti import read_volume
from cmb_models.io.scan_id import content_sha256
from cmb_models.workspace.paths import INDEX, RAW

EMPTY = hashlib.sha256(b"").hexdigest()  # of a file without bytes, which identifies nobody


@dataclass(frozen=True)
class Image:
    """A NIfTI file below data/raw.

    Attributes:
        sha256: Of its bytes; "" if it is empty or cannot be read.
        content_sha256: Of its voxels; "" if they cannot be read or are all alike, as of an empty mask.
        is_constant: Whether all voxels are alike.
    """

    sha256: str
    content_sha256: str
    is_constant: bool = False


def walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """All files below a folder, hidden ones and links too, each with whether it lies behind a linked folder.

    Raises:
        InputError: If a folder cannot be read.
    """
    yield from _walk(folder, False, (folder.resolve(),))


def _walk(folder: Path, is_behind: bool, above: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        expected, remedy = "a folder that may be read", "check its permissions"
        raise InputError("file-not-readable", folder, expected, system_reason(error), remedy) from error
    for path in paths:
        if path.is_symlink() or path.is_file():
            yield path, is_behind
        if path.is_dir() and (real := path.resolve()) not in above:
            yield from _walk(path, is_behind or path.is_symlink(), (*above, real))


def is_image(file: Path) -> bool:
    """Whether a file is named as a NIfTI file, or was once, such as scan.nii.gz.bak."""
    return ".nii" in file.name.lower()


def images_below(workspace: Path) -> dict[Path, Image]:
    """All images of data/raw, by path. Contents that the index has are not computed again."""
    known: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = {e["path"]: (e["sha256"], e["content_sha256"]) for e in read_json(workspace / INDEX)["scans"]}
    files = [file for file, _ in walk(workspace / RAW) if is_image(file) and file.is_file()]
    return {file: _image(file, *known.get(file.relative_to(workspace).as_posix(), ("", ""))) for file in files}


def file_sha256(file: Path) -> str:
    """SHA-256 of a file; "" if it is empty or not readable, such as a link to nothing."""
    try:
        sha256 = sha256_of(file)
    except OSError:
        return ""
    return "" if sha256 == EMPTY else sha256


def _image(file: Path, known_sha256: str, known_content: str) -> Image:
    sha256 = file_sha256(file)
    if not sha256 or sha256 == known_sha256:
        return Image(sha256, known_content if sha256 else "")
    try:
        with tempfile.TemporaryDirectory() as folder:  # read_volume refuses other endings, such as .bak
            link = Path(folder, "scan.nii")
            link.symlink_to(file.resolve())
            volume = read_volume(link, needs_place=False)
    except InputError:
        return Image(sha256, "")
    values = volume.data[np.isfinite(volume.data)]
    if not values.size or values.min() == values.max():
        return Image(sha256, "", is_constant=True)
    return Image(sha256, content_sha256(volume))
