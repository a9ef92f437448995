"""Which scans were withdrawn from a workspace, by its log."""

from __future__ import annotations

from pathlib import Path

from cmb_models.hash_chain import read_entries, with_merged
from cmb_models.workspace.paths import WITHDRAWAL_LOG


def withdrawn_hashes(workspace: Path) -> frozenset[str]:
    """SHA-256 of the files and contents of all scans that were withdrawn; none where there is no log."""
    entries = with_merged(read_entries(Path(workspace) / WITHDRAWAL_LOG))
    return frozenset(sha256 for entry in entries for part in ("scans", "files") for sha256 in entry.get(part, ()))
