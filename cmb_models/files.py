"""Atomic writes (temporary name, sync, rename), hashes, and file locks between processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`; on success sync it and rename it to `path`, on failure remove it.

    The temporary name keeps the file's suffixes, since writers (NIfTI, PNG) choose their format by them. Raises InputError for a
    full disk and for a folder that cannot be written to.
    """
    path = Path(path)
    with _disk_full_as_input_error(path):
        with writable(path.parent):
            descriptor, name = tempfile.mkstemp(prefix=".partial-", suffix=f"-{path.name}", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            _sync_file(temporary)
            temporary.chmod(0o644)  # mkstemp makes 0600, and a shared workspace must stay readable
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder next to `path`; on success sync its files and swap it in, on failure remove it."""
    path = Path(path)
    with _disk_full_as_input_error(path):
        with writable(path.parent):
            temporary = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
        try:
            yield temporary
            for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
                _sync_file(file)
            temporary.chmod(0o755)
            _swap(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _disk_full_as_input_error(path: Path) -> Iterator[None]:
    """Convert the system's error for a full disk into an InputError; other errors pass."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # NumPy's message for a short write, without a number
        if error.errno not in FULL and not short:
            raise
        raise InputError("disk-full", path, "room on the disk", "none left", "free some and run the command again") from error


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Create a folder if it is missing, to create files in it. Raises InputError if it cannot be created or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        got = (error.strerror or type(error).__name__).lower()
        remedy = "correct its permissions, or use another folder"
        raise InputError("folder-not-writable", folder, "a folder that can be written to", got, remedy) from error


def _swap(new: Path, path: Path) -> None:
    """Rename the old folder aside before the new one takes its name: removed in place, a kill would leave half of it."""
    if not path.exists():
        os.replace(new, path)
        return
    # A name that is free: Windows renames onto no folder, not even an empty one.
    aside = path.with_name(f".old-{path.name}-{uuid.uuid4().hex}")
    os.replace(path, aside)
    os.replace(new, path)
    shutil.rmtree(aside)


def _sync_file(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        with file.open("r+b") as stream:  # Windows syncs only what is open for writing
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries on the disk, where folders can be opened: Windows opens none, and keeps renames in a journal."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a file, made if it is missing, or on a folder. It ends with the process, however that ends.

    Args:
        path: what to lock; its content is neither read nor changed.
        wait: whether to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
        InputError: the system has no such locks (Windows).
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        remedy = "run this command on Linux; detection and the client run here"
        raise InputError("system-unsupported", path, "a system with file locks", sys.platform, remedy) from error
    path = Path(path)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # the same bytes, and so the same hash, on every system


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def shipped(packaged: str, checkout: str) -> Path:
    """A folder that the wheel carries inside the package at `packaged`; a checkout has it at `checkout`, next to the package."""
    package = Path(__file__).resolve().parent
    return package / packaged if (package / packaged).is_dir() else package.parent / checkout


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
