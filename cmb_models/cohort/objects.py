"""Scans in object storage, named by URLs such as s3://BUCKET/KEY, by fsspec. Credentials and endpoint are the provider's own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cmb_models.errors import InputError
from cmb_models.files import FULL, no_temporary_room

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Result = TypeVar("Result")

AT_ONCE = 16  # requests for lists of objects
URL = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Whether a cell of a manifest is a URL, not a path."""
    return URL.match(text) is not None


def present(urls: Iterable[str]) -> set[str]:
    """Those of the URLs that are there, or {}. Each prefix is listed once.

    Raises:
        InputError: If fsspec or the storage's own package is missing, or the storage cannot be reached or refuses.
    """
    prefixes: dict[str, list[str]] = {}
    for url in urls:
        prefixes.setdefault(url.rpartition("/")[0], []).append(url)
    with ThreadPoolExecutor(AT_ONCE) as pool:  # a prefix for each scan is a usual layout
        listed = dict(zip(prefixes, pool.map(_listed, prefixes), strict=True))
    return {url for prefix, within in prefixes.items() for url in within if url.rpartition("/")[2] in listed[prefix]}


def _listed(prefix: str) -> set[str]:
    system, place = _opened(prefix)
    return {name.rpartition("/")[2] for name in _asked(prefix, _names, system, place)}


@contextmanager
def fetched(urls: Iterable[str]) -> Iterator[list[Path]]:
    """Files with the contents of objects, under their names, in a folder that is removed when the context is left.

    Raises:
        InputError: If one is gone, the storage cannot be reached or refuses, or the disk is full.
    """
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmb-cohort-")))
            files = [_fetch(url, folder / str(number)) for number, url in enumerate(urls)]
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise no_temporary_room("room to fetch a scan") from error
        yield files


def _fetch(url: str, folder: Path) -> Path:
    system, place = _opened(url)
    folder.mkdir()
    file = folder / url.rpartition("/")[2]
    try:
        _asked(url, system.get_file, place, str(file))
    except _Denied as denied:
        _listed(url.rpartition("/")[0])  # raises if all of the storage refuses
        got = " ".join(str(denied.__cause__).split())[:200]
        raise InputError("scan-file", url, "an object that may be read", got, "restore it or correct its permissions") from denied
    return file


def _names(system: AbstractFileSystem, place: str) -> list[str]:
    try:
        return [entry["name"] for entry in system.ls(place, detail=True) if entry["type"] == "file"]
    except FileNotFoundError:
        return []


def _opened(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and what it calls the object."""
    remedy = "run pip install s3fs for s3://, or the package that fsspec names for another storage"
    try:
        from fsspec.core import url_to_fs

        system, place = url_to_fs(url)
    except ImportError as error:
        raise InputError("package-missing", url, "the packages that read it", f"no {error.name or error}", remedy) from error
    except ValueError as error:
        raise InputError("manifest-invalid", url, "a URL such as s3://BUCKET/KEY", str(error), "correct the manifest") from error
    return system, place


class _Denied(InputError):
    """The storage refuses one request: all of them, or this object (archived, or without permission)."""


def _asked(url: str, question: Callable[..., Result], *arguments: object) -> Result:
    """An answer of the storage; its library repeats what may pass by itself."""
    remedy = "check address, credentials and network, and run the same command again: finished partitions are kept"
    try:
        return question(*arguments)
    except FileNotFoundError as error:
        raise InputError("file-not-found", url, "an object of that name", "none", "correct the manifest") from error
    except MemoryError:
        raise
    except Exception as error:  # each storage's library has exceptions of its own for credentials and connections
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        kind = _Denied if isinstance(error, PermissionError) else InputError
        got = " ".join(str(error).split())[:200] or type(error).__name__
        raise kind("storage-unreachable", url, "storage that answers", got, remedy) from error
