"""The index of a site's data: every scan with its hash, geometry and lesion count, or every fault found."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cmb_models.config.params import Preprocess
from cmb_models.dataset.check.dataset import check_dataset, faults_across
from cmb_models.dataset.entries import ScanIndex
from cmb_models.dataset.layout import ANNOTATIONS, by_reason, dataset_folders, images_left_out, raw_datasets
from cmb_models.errors import joined
from cmb_models.io.annotations import NONE

log = logging.getLogger(__name__)


def index_datasets(raw_dir: Path, settings: Preprocess | None = None, withdrawn: Collection[str] = ()) -> ScanIndex:
    """Check all datasets in one pass, and list their scans.

    Args:
        raw_dir: Folder with one folder per dataset.
        settings: If they enable phase, every scan needs a usable phase image.
        withdrawn: Hashes of scans that must not come back (workspace/withdrawals.py).

    Returns:
        One entry per scan that was read, by dataset and path; the other scans are listed as unread. All are checked.

    Raises:
        InputError: If a dataset that DVC versions was not pulled; if `raw_dir` is itself a dataset or holds none; else one error
            that lists the faults of all scans: not readable, not plausible as SWI, a duplicate file, an annotation outside its scan
            or repeated, a missing or unusable phase image.
    """
    with_phase = settings if settings is not None and settings.phase else None
    checks = [check_dataset(folder, with_phase) for folder in raw_datasets(raw_dir)]
    entries = [entry for check in checks for entry in check.entries.values()]
    faults = [*(fault for check in checks for fault in check.faults), *faults_across(entries, withdrawn)]
    if faults:
        raise joined(faults, raw_dir, "usable scans and annotations", "correct all of these")
    for warning in (w for check in checks for w in check.warnings if w.code != "scan-unread"):  # `summary` names these
        log.warning(warning)
    unread = [scan.path.as_posix() for check in checks for scan in check.unread]
    index: ScanIndex = {"scans": [entry for check in checks for entry in check.used]}
    return index | {"unread": unread} if unread else index


def summary(index: ScanIndex) -> list[str]:
    """One line per dataset: scans, subjects, microbleeds."""
    lines = []
    for name in sorted({entry["dataset"] for entry in index["scans"]}):
        scans = [entry for entry in index["scans"] if entry["dataset"] == name]
        subjects, empty = len({entry["subject"] for entry in scans}), sum(not entry["n_cmbs"] for entry in scans)
        n_cmbs = sum(entry["n_cmbs"] for entry in scans)
        lines.append(f"{name}: scans {len(scans)} ({empty} without microbleeds), subjects {subjects}, microbleeds {n_cmbs}")
    if unread := index.get("unread", []):
        first = unread[0] + (" ..." if len(unread) > 1 else "")
        lines.append(f"{len(unread)} scans without rows in {ANNOTATIONS} are unread and not used: {first}")
        lines.append(f"if they were read and nothing was found, add a row with the label {NONE} for each")
    return lines


def replaced(index: ScanIndex, lineage: Mapping[str, Any]) -> list[str]:
    """One line if scans have another content than those of their names that a bundle was made from or evaluated on.

    They were replaced, or damaged and then recorded by `dvc repro` as they were. lineage: of the bundle; {} if there is none.
    """
    seen = {key: sha256 for part in ("training_scans", "locked_scans") for key, sha256 in lineage.get(part, {}).items()}
    contents = {key: h for part in ("training_contents", "locked_contents") for key, h in lineage.get(part, {}).items()}
    names = [
        s["key"]
        for s in index["scans"]
        if seen.get(s["key"], s["sha256"]) != s["sha256"] and contents.get(s["key"]) != s["content_sha256"]
    ]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return [f"{len(names)} scans are not those of models/bundle: {shown}; if you replaced none, compare them with the originals"]


def left_out(raw_dir: Path) -> list[str]:
    """One line per dataset and reason: how many of its images are not used, and the first."""
    lines = []
    for folder in dataset_folders(raw_dir):
        for reason, images in by_reason(images_left_out(folder)).items():
            first = images[0].relative_to(raw_dir).as_posix()
            lines.append(f"{folder.name}: {len(images)} images not used ({reason}): {first}{' ...' if len(images) > 1 else ''}")
    return lines
