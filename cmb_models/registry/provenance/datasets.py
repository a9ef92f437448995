"""The datasets of a release by content: a hash over scans and marks that names, compression and order leave unchanged."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TypedDict

from cmb_models.dataset.entries import ScanIndex
from cmb_models.dataset.layout import ANNOTATIONS
from cmb_models.files import read_json
from cmb_models.hash_chain import canonical_sha256
from cmb_models.io.annotations import Annotation, read_annotations
from cmb_models.workspace.paths import INDEX, RAW
from cmb_models.workspace.versioning import is_tracked


class DatasetRecord(TypedDict):
    """A dataset in lineage.json. sha256: of its scans' contents and marks; scans and cmbs: their numbers, without unread scans."""

    sha256: str
    scans: int
    cmbs: int


def dataset_records(workspace: Path) -> dict[str, DatasetRecord]:
    """The datasets of the workspace's index by name; {} where no stage writes an index.

    The hash is that of the canonical JSON of [content, marks] of each scan in the order of contents, where each mark is
    [x_mm, y_mm, z_mm, diameter_mm, label], sorted.

    Raises:
        InputError: If annotations.csv of a dataset is missing or invalid.
    """
    if not is_tracked(workspace, INDEX):
        return {}
    index: ScanIndex = read_json(workspace / INDEX)
    found: dict[str, DatasetRecord] = {}
    for name in sorted({scan["dataset"] for scan in index["scans"]}):
        scans = [scan for scan in index["scans"] if scan["dataset"] == name]
        marks = _marks(workspace / RAW / name / ANNOTATIONS)
        keys = {scan["key"]: (scan["subject"].removeprefix(f"{name}_"), scan["session"]) for scan in scans}
        content = sorted([scan["content_sha256"], sorted(map(_row, marks[keys[scan["key"]]]))] for scan in scans)
        found[name] = {"sha256": canonical_sha256(content), "scans": len(scans), "cmbs": sum(scan["n_cmbs"] for scan in scans)}
    return found


def _marks(file: Path) -> dict[tuple[str, str], list[Annotation]]:
    """The marks by subject and session."""
    marks: dict[tuple[str, str], list[Annotation]] = defaultdict(list)
    for mark in read_annotations(file):
        marks[mark.subject, mark.session].append(mark)
    return marks


def _row(mark: Annotation) -> list[float | str]:
    return [mark.x_mm, mark.y_mm, mark.z_mm, mark.diameter_mm, mark.label]
