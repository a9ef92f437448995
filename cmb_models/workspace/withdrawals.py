"""Which scans were withdrawn from a workspace, by its log."""

from __future__ import annotations

from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.hash_chain import first_fault, read_entries, with_merged
from cmb_models.workspace.paths import INDEX, WITHDRAWAL_LOG


def require_whole(workspace: Path) -> None:
    """Raise InputError for a broken log; a missing one is intact."""
    if fault := first_fault(Path(workspace) / WITHDRAWAL_LOG):
        remedy = "restore it with `git checkout`, or from a backup; after a git merge, run `cmb release merge`"
        raise InputError("log-damaged", WITHDRAWAL_LOG, "an unbroken log", fault, remedy)


def withdrawn_hashes(workspace: Path) -> frozenset[str]:
    """SHA-256 of the files and contents of all scans that were withdrawn; none where there is no log.

    Raises:
        InputError: For a broken log.
    """
    require_whole(workspace)
    entries = with_merged(read_entries(Path(workspace) / WITHDRAWAL_LOG))
    return frozenset(sha256 for entry in entries for part in ("scans", "files") for sha256 in entry.get(part, ()))


def require_none_withdrawn(workspace: Path) -> None:
    """Raise InputError naming the scans of the index that were withdrawn: a git merge can bring them back without a stage to run.

    A workspace without an index has none.
    """
    withdrawn, index = withdrawn_hashes(workspace), Path(workspace) / INDEX
    scans = read_json(index)["scans"] if withdrawn and index.is_file() else []
    again = [scan["path"] for scan in scans if {scan["sha256"], scan.get("content_sha256")} & withdrawn]
    if again:
        remedy = "remove them with `cmb data withdraw`, then run `dvc repro`"
        raise InputError("scan-withdrawn", index, "no scan of a patient who withdrew", ", ".join(again), remedy)
