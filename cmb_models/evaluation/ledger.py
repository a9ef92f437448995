"""How often the locked set has been looked at: every evaluation on it is an entry of a hash-chained log in the workspace.

A locked set is worth what it has not been used for. Whoever trains again after each look at it tunes on it, one look at a time;
the count stands beside the figures, so that nobody needs to remember it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmb_models.chain import append_entry, canonical_sha256, first_fault, read_entries
from cmb_models.errors import InputError

LEDGER = Path("locked_evaluations.jsonl")  # at the workspace's root; kept by git, written by the evaluate stage
KEY_FIGURES = ("n_scans", "n_lesions", "hits", "sensitivity", "fp_per_scan", "precision", "threshold")


def locked_scans(index: Sequence[Mapping[str, Any]]) -> list[str]:
    """A locked set: its files' hashes in order, whatever they are called. index: entries of data/index.json."""
    return sorted(scan["sha256"] for scan in index)


def require_whole(file: Path) -> None:
    """Refuse a broken log with InputError; one not yet begun is whole. Ask before the locked scans are read."""
    fault = first_fault(file)
    if fault:
        remedy = "restore it with `git checkout`, or from a backup: what was looked at cannot be counted without it"
        raise InputError(file, "an unbroken log of looks at the locked set", fault, remedy)


def count_evaluation(
    file: Path, bundle_sha256: str, scans: Sequence[str], commit: str, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Append an evaluation and return how often these locked scans have been looked at, this time included.

    Looks are counted scan by scan, so that a set that one scan was added to or taken from is not a new one. Returns
    {"scans_sha256", "time", "evaluations", "bundles", "scans", "seen_before"}: the looks at the scan that has had the most, at how
    many different bundles these were, the number of scans, and how many of them had been looked at before. The same bundle
    evaluated twice is two looks at one bundle. bundle_sha256: of the bundle's manifest. scans: as locked_scans gives them. commit:
    checked out in the workspace, "" outside of git. Raises InputError for a broken log, before anything is written.
    """
    require_whole(file)
    figures, scans_sha256 = {name: metrics[name] for name in KEY_FIGURES}, canonical_sha256(list(scans))
    before = read_entries(file)
    about = {"bundle_sha256": bundle_sha256, "scans_sha256": scans_sha256, "scans": list(scans), "commit": commit}
    entry = append_entry(file, **about, figures=figures)
    looks = {scan: [e["bundle_sha256"] for e in [*before, entry] if _looked_at(e, scan, entry)] for scan in scans}
    most = max(looks.values(), key=lambda bundles: (len(bundles), len(set(bundles))))
    counted = {"evaluations": len(most), "bundles": len(set(most)), "scans": len(looks)}
    counted["seen_before"] = sum(len(bundles) > 1 for bundles in looks.values())
    return {"scans_sha256": scans_sha256, "time": entry["time"], **counted}


def _looked_at(entry: Mapping[str, Any], scan: str, now: Mapping[str, Any]) -> bool:
    """Whether an evaluation had a scan of the present one. Entries of before scans were listed are known by their whole set."""
    return scan in entry["scans"] if "scans" in entry else entry["scans_sha256"] == now["scans_sha256"]
