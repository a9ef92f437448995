"""Scans in object storage, named by URLs such as s3://BUCKET/KEY, by fsspec. Credentials and endpoint are the provider's own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cmb_models.errors import InputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Result = TypeVar("Result")

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
    found: set[str] = set()
    for prefix, within in prefixes.items():
        system, place = _opened(prefix)
        names = {name.rpartition("/")[2] for name in _asked(prefix, _names, system, place)}
        found |= {url for url in within if url.rpartition("/")[2] in names}
    return found


@contextmanager
def fetched(urls: Iterable[str]) -> Iterator[list[Path]]:
    """Files with the contents of objects, under their names, in a folder that is removed when the context is left.

    Raises:
        InputError: If one is gone, the storage cannot be reached or refuses, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="cmb-cohort-") as folder:
        files = []
        for number, url in enumerate(urls):
            system, place = _opened(url)
            file = Path(folder, str(number), url.rpartition("/")[2])
            file.parent.mkdir()
            _asked(url, system.get_file, place, str(file))
            files.append(file)
        yield files


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


def _asked(url: str, question: Callable[..., Result], *arguments: object) -> Result:
    """An answer of the storage; its library repeats what may pass by itself."""
    try:
        return question(*arguments)
    except FileNotFoundError as error:
        raise InputError("file-not-found", url, "an object of that name", "none", "correct the manifest") from error
    except Exception as error:  # each storage's library has exceptions of its own for credentials and connections
        got = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "check address, credentials and network, and run the same command again: finished partitions are kept"
        raise InputError("storage-unreachable", url, "storage that answers", got, remedy) from error
