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


def locked_scans_sha256(index: Sequence[Mapping[str, Any]]) -> str:
    """Identity of a locked set: hash of its files' hashes, whatever they are called. index: entries of data/index.json."""
    return canonical_sha256(sorted(scan["sha256"] for scan in index))


def require_whole(file: Path) -> None:
    """Refuse a broken log with InputError; one not yet begun is whole. Ask before the locked scans are read."""
    fault = first_fault(file)
    if fault:
        remedy = "restore it with `git checkout`, or from a backup: what was looked at cannot be counted without it"
        raise InputError(file, "an unbroken log of looks at the locked set", fault, remedy)


def count_evaluation(file: Path, bundle_sha256: str, scans_sha256: str, commit: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Append an evaluation and return how often this locked set has been looked at, this time included.

    Returns {"scans_sha256", "time", "evaluations", "bundles"}: evaluations of this set, and of how many different bundles. The same
    bundle evaluated twice is two looks at one bundle. bundle_sha256: of the bundle's manifest. commit: checked out in the
    workspace, "" outside of git. Raises InputError for a broken log, before anything is written.
    """
    require_whole(file)
    figures = {name: metrics[name] for name in KEY_FIGURES}
    entry = append_entry(file, bundle_sha256=bundle_sha256, scans_sha256=scans_sha256, commit=commit, figures=figures)
    own = [e for e in read_entries(file) if e["scans_sha256"] == scans_sha256]
    counted = {"evaluations": len(own), "bundles": len({e["bundle_sha256"] for e in own})}
    return {"scans_sha256": scans_sha256, "time": entry["time"], **counted}
