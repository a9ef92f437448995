"""What data/index.json and data/split.json hold."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ScanEntry(TypedDict):
    """One scan of the index.

    subject: with its dataset's name before it. sha256: of the file. content_sha256: of shape and voxels (io.scan_id), the same
    for a file that was compressed or saved again. shape and spacing_mm: along i, j and k as stored. brain_extracted: check/head.py.
    nan_voxels_set_to_zero: voxels of air that were NaN where the scan was imported from.
    """

    key: str
    dataset: str
    subject: str
    session: str
    path: str
    sha256: str
    content_sha256: str
    shape: list[int]
    spacing_mm: list[float]
    n_cmbs: int
    brain_extracted: NotRequired[bool]
    nan_voxels_set_to_zero: NotRequired[int]
    phase_sha256: NotRequired[str]


class ScanIndex(TypedDict):
    """data/index.json. unread: files of scans that nobody read, which are neither trained on nor evaluated."""

    scans: list[ScanEntry]
    unread: NotRequired[list[str]]


class SubjectSplit(TypedDict):
    """data/split.json. folds: fold of each training subject. locked: subjects of the held-out test set. notes: sentences.

    held_out: never in the file; the subjects of the outer fold where this is the inner split of a nested cross-validation.
    """

    folds: dict[str, int]
    locked: list[str]
    locked_sha256: list[str]
    notes: list[str]
    held_out: NotRequired[list[str]]
