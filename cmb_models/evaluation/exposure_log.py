"""The exposure log: every evaluation on the held-out test set is an entry of a hash-chained log in the workspace.

Retraining in response to an evaluation tunes on the test set. The number of evaluations is reported with the figures, so that
readers can judge this bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.hash_chain import append_entry, canonical_sha256, first_fault, read_entries, with_merged

NO_CONTENTS: Mapping[str, str] = MappingProxyType({})
KEY_FIGURES = ("n_scans", "n_lesions", "hits", "sensitivity", "fp_per_scan", "precision", "threshold")


def locked_scans(index: Sequence[Mapping[str, Any]]) -> list[str]:
    """A locked set: its files' hashes in order, whatever they are called. index: entries of data/index.json."""
    return sorted(scan["sha256"] for scan in index)


def contents_of(index: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SHA-256 of the content of each file of a locked set by that of the file; {} from an index of an older version."""
    return {scan["sha256"]: scan["content_sha256"] for scan in index if "content_sha256" in scan}


def require_whole(file: Path) -> None:
    """Raise InputError for a broken log; a missing one is intact. Call it before the locked scans are read."""
    fault = first_fault(file)
    if fault:
        remedy = (
            "restore it with `git checkout`, or from a backup: evaluations cannot be counted without it; after a git merge, run"
        )
        remedy += " `cmb release merge`"
        raise InputError("log-damaged", file, "an unbroken exposure log", fault, remedy)


def count_evaluation(
    file: Path,
    bundle_sha256: str,
    scans: Sequence[str],
    commit: str,
    metrics: Mapping[str, Any],
    contents: Mapping[str, str] = NO_CONTENTS,
) -> dict[str, Any]:
    """Append an evaluation, and count the evaluations of these locked scans, this one included.

    Evaluations are counted per scan, so adding or removing a scan does not make a new set. Waits for another process that counts in
    the same folder.

    Args:
        file: The log.
        bundle_sha256: Of the bundle's manifest. One bundle evaluated twice counts as two evaluations of one bundle.
        scans: As `locked_scans` returns them.
        commit: Checked out in the workspace; "" outside of git.
        metrics: KEY_FIGURES are stored.
        contents: As `contents_of` returns them: a scan that was saved again is still the same.

    Returns:
        scans_sha256, time, evaluations and bundles (the largest number of any scan), scans (their number), seen_before (scans
        evaluated before).

    Raises:
        InputError: For no scans or a broken log, before anything is written.
    """
    if not scans:
        raise InputError(
            "locked-set-empty", "locked scans", "at least one that was evaluated", "none", "lock some (split.locked_datasets)"
        )
    figures, scans_sha256 = {name: metrics[name] for name in KEY_FIGURES}, canonical_sha256(list(scans))
    about: dict[str, Any] = {"bundle_sha256": bundle_sha256, "scans_sha256": scans_sha256, "scans": list(scans), "commit": commit}
    about |= {"contents": dict(contents)} if contents else {}
    with exclusive(file.parent):
        require_whole(file)
        entry = append_entry(file, **about, figures=figures)
        entries = list(with_merged(read_entries(file)))
    exposures = {scan: [e["bundle_sha256"] for e in entries if _includes(e, scan, entry)] for scan in scans}
    counted = {"evaluations": max(map(len, exposures.values())), "bundles": max(len(set(b)) for b in exposures.values())}
    counted |= {"scans": len(exposures), "seen_before": sum(len(bundles) > 1 for bundles in exposures.values())}
    return {"scans_sha256": scans_sha256, "time": entry["time"], **counted}


def exposure_summary(counted: Mapping[str, Any]) -> str:
    """The result of `count_evaluation` as a sentence. Evaluations of older versions were not counted per scan: left out."""
    seen, scans, times = (counted.get(name, 0) for name in ("seen_before", "scans", "evaluations"))
    at = f"{times} times, with {counted['bundles']} different bundle{'s' if counted['bundles'] != 1 else ''}"
    if times == 1:
        return "None of these held-out scans had been evaluated before."
    if seen < scans:
        return f"{seen} of these {scans} held-out scans had been evaluated before, by now up to {at}."
    return f"These held-out scans have been evaluated {at}."


def _includes(entry: Mapping[str, Any], scan: str, now: Mapping[str, Any]) -> bool:
    """Whether an earlier evaluation included a scan, as this file or as another of the same content.

    Entries of older versions list no scans and are compared by their set.
    """
    if "scans" not in entry:
        return bool(entry["scans_sha256"] == now["scans_sha256"])
    content = now.get("contents", {}).get(scan)
    return scan in entry["scans"] or (content is not None and content in entry.get("contents", {}).values())
