"""How often the locked set has been looked at: every evaluation on it is an entry of a hash-chained log in the workspace.

A locked set is worth what it has not been used for. Whoever trains again after each look at it tunes on it, one look at a time;
the count stands beside the figures, so that nobody needs to remember it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.hash_chain import append_entry, canonical_sha256, first_fault, read_entries

KEY_FIGURES = ("n_scans", "n_lesions", "hits", "sensitivity", "fp_per_scan", "precision", "threshold")


def locked_scans(index: Sequence[Mapping[str, Any]]) -> list[str]:
    """A locked set: its files' hashes in order, whatever they are called. index: entries of data/index.json."""
    return sorted(scan["sha256"] for scan in index)


def require_whole(file: Path) -> None:
    """Refuse a broken log with InputError; one not yet begun is whole. Ask before the locked scans are read."""
    fault = first_fault(file)
    if fault:
        remedy = "restore it with `git checkout`, or from a backup: what was looked at cannot be counted without it"
        raise InputError("log-damaged", file, "an unbroken log of looks at the locked set", fault, remedy)


def count_evaluation(
    file: Path, bundle_sha256: str, scans: Sequence[str], commit: str, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Append an evaluation and return how often these locked scans have been looked at, this time included.

    Looks are counted scan by scan, so that a set that one scan was added to or taken from is not a new one. Returns
    {"scans_sha256", "time", "evaluations", "bundles", "scans", "seen_before"}: the most looks that any of the scans has had, the
    most different bundles that any was shown to, the number of scans, and how many of them had been looked at before. The same
    bundle evaluated twice is two looks at one bundle. bundle_sha256: of the bundle's manifest. scans: as locked_scans gives them.
    commit: checked out in the workspace, "" outside of git. Waits for another process that counts in the same folder. Raises
    InputError for no scans or a broken log, before anything is written.
    """
    if not scans:
        raise InputError(
            "locked-set-empty", "locked scans", "at least one that was looked at", "none", "lock some (split.locked_datasets)"
        )
    figures, scans_sha256 = {name: metrics[name] for name in KEY_FIGURES}, canonical_sha256(list(scans))
    about = {"bundle_sha256": bundle_sha256, "scans_sha256": scans_sha256, "scans": list(scans), "commit": commit}
    with exclusive(file.parent):
        require_whole(file)
        entry = append_entry(file, **about, figures=figures)
        entries = read_entries(file)
    looks = {scan: [e["bundle_sha256"] for e in entries if _looked_at(e, scan, entry)] for scan in scans}
    counted = {"evaluations": max(map(len, looks.values())), "bundles": max(len(set(b)) for b in looks.values())}
    counted |= {"scans": len(looks), "seen_before": sum(len(bundles) > 1 for bundles in looks.values())}
    return {"scans_sha256": scans_sha256, "time": entry["time"], **counted}


def told(counted: Mapping[str, Any]) -> str:
    """What `count_evaluation` returned, in a sentence. Evaluations of before do not tell scan by scan, which is left out then."""
    seen, scans, times = (counted.get(name, 0) for name in ("seen_before", "scans", "evaluations"))
    at = f"{times} times, at {counted['bundles']} different bundle{'s' if counted['bundles'] != 1 else ''}"
    if times == 1:
        return "None of these locked scans had been looked at before."
    if seen < scans:
        return f"{seen} of these {scans} locked scans had been looked at before, by now up to {at}."
    return f"These locked scans have been looked at {at}."


def _looked_at(entry: Mapping[str, Any], scan: str, now: Mapping[str, Any]) -> bool:
    """Whether an evaluation had a scan of the present one. Entries of before scans were listed are known by their whole set."""
    return scan in entry["scans"] if "scans" in entry else entry["scans_sha256"] == now["scans_sha256"]
