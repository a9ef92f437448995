"""Atomic writes of files and folders, file locks between processes, JSON and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError

log = logging.getLogger(__name__)

PARTIAL = ".partial-"  # at the beginning of the names of files and folders that are not whole yet
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def system_reason(error: OSError) -> str:
    """Why the system refused something, in words for a message."""
    return (error.strerror or type(error).__name__).lower()


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success sync it and rename it to `path`, on failure remove it.

    The temporary name keeps the file's suffixes, since writers (NIfTI, PNG) choose their format by them.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    with _disk_full_as_input_error(path):
        with writable(path.parent):
            descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=f"-{path.name}", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            _sync_file(temporary)
            # mkstemp creates files with mode 0600, but a shared workspace must stay readable.
            temporary.chmod(mode)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_partial(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of `atomic_write` in a folder, under a lock that all who write there hold.

    pattern: of the paths of the files that were to be written, such as "*.csv" or "**/*".
    """
    place, _, name = pattern.rpartition("/")
    for file in folder.glob(f"{place}/{PARTIAL}*-{name}" if place else f"{PARTIAL}*-{name}"):
        if file.is_file():
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success sync its files and swap it in, on failure remove it."""
    path = Path(path)
    with _disk_full_as_input_error(path):
        with writable(path.parent):
            temporary = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent))
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
    """Convert the errors of a full disk to an InputError; others pass."""
    try:
        yield
    except OSError as error:
        # NumPy reports a short write without an error number.
        short_write = error.errno is None and "written" in str(error)
        if error.errno not in FULL and not short_write:
            raise
        raise InputError("disk-full", path, "room on the disk", "none left", "free some and run the command again") from error


def no_temporary_room(expected: str, got: str = "none") -> InputError:
    """The error for a full disk below the folder for temporary files. expected, got: the room that is needed, and that is free."""
    return InputError("disk-full", tempfile.gettempdir(), expected, got, "free some, or set TMPDIR")


@contextlib.contextmanager
def writable(folder: Path, mode: int = 0o777) -> Iterator[None]:
    """Create a folder if it is missing, to create files in it. Raises InputError if it cannot be created or written to."""
    with changeable(folder):
        folder.mkdir(mode, parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def changeable(folder: Path) -> Iterator[None]:
    """Create or remove files in a folder. Raises InputError if that is not possible."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        got = system_reason(error)
        remedy = "correct its permissions, or use another folder"
        raise InputError("folder-not-writable", folder, "a folder that can be written to", got, remedy) from error


def _swap(new: Path, path: Path) -> None:
    """Rename the old folder aside before the new one takes its name: a kill during a removal in place would leave half of it."""
    if not path.exists():
        os.replace(new, path)
        return
    # The name must be unused: Windows does not rename onto a folder, not even an empty one.
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
    """Sync the folder's entries to disk. Not on Windows, which cannot open folders and journals renames."""
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
    """Hold an exclusive lock on a file, created if missing, or on a folder. The system releases it when the process ends.

    Args:
        path: File or folder to lock; its content is neither read nor changed.
        wait: Whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: If another process holds the lock and `wait` is false.
        InputError: If the system (Windows) or the file system has no such locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        remedy = "run this command on Linux; detection and the client run here"
        raise InputError("system-unsupported", path, "a system with file locks", sys.platform, remedy) from error
    path = Path(path)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            remedy = "mount it with locks (NFS: with lockd running; Lustre: with the option `flock`), or use a local disk"
            got = f"one that refuses them ({error.strerror})"
            raise InputError("system-unsupported", path, "a file system with file locks", got, remedy) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(path: Path, purpose: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, created if missing with its folder, without waiting.

    Args:
        path: File to lock.
        purpose: What only one process at a time may do, such as "tune this study", for the message.

    Raises:
        InputError: If another process holds the lock, there are no locks, or the folder cannot be written to. The lock of a killed
            process is released.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with writable(path.parent):
            try:
                stack.enter_context(exclusive(path, wait=False))
            except BlockingIOError as error:
                remedy = "wait until the other one has ended, or stop it"
                raise InputError("folder-in-use", path, f"one process to {purpose}", "a second one", remedy) from error
        yield


def files_below(folder: Path, on_error: Callable[[OSError], None] | None = None) -> list[Path]:
    """All files in a folder at any depth, sorted, without hidden ones. Links to folders are followed, each folder once.

    Links to nothing are listed too. on_error: called for each folder that cannot be read; by default it is logged.
    """
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=on_error or _log_unread):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file() or not file.exists())


def _log_unread(error: OSError) -> None:
    log.warning("%s is not read: %s", error.filename, error.strerror)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # the same bytes, and so the same hash, on every system


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically. Raises ValueError for NaN, which is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def shipped(packaged: str, checkout: str) -> Path:
    """Path of a folder shipped with the package: inside it at `packaged` in a wheel, next to it at `checkout` in a checkout."""
    package = Path(__file__).resolve().parent
    return package / packaged if (package / packaged).is_dir() else package.parent / checkout


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
