"""Files that are either whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    The temporary name keeps the file's suffixes, since writers (NIfTI, PNG) choose their format by them. A full disk is an
    InputError that names `path`.
    """
    path = Path(path)
    with _full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".partial-", suffix=f"-{path.name}", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)  # mkstemp makes 0600, and a shared workspace must stay readable
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success sync its files and swap it in, on failure remove it."""
    path = Path(path)
    with _full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
        try:
            yield temporary
            for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            temporary.chmod(0o755)
            _swap(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    """Make an InputError of the system's word for a full disk; other errors pass."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # NumPy's words for a short write, without a number
        if error.errno not in FULL and not short:
            raise
        raise InputError(path, "room on the disk", "none left", "free some and run the command again") from error


def _swap(new: Path, path: Path) -> None:
    """Rename the old folder aside before the new one takes its name: removed in place, a kill would leave half of it."""
    if not path.exists():
        os.replace(new, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".old-{path.name}-", dir=path.parent))
    os.replace(path, aside)
    os.replace(new, path)
    shutil.rmtree(aside)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
