"""The logs of two git branches that each added entries, which git cannot merge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.hash_chain import first_fault, merge_logs, read_entries
from cmb_models.registry.history.lock import registry_lock
from cmb_models.registry.history.state import state_from_log, words
from cmb_models.registry.mlflow.connection import Unreachable
from cmb_models.registry.mlflow.store import Registry, open_registry
from cmb_models.workspace.paths import AUDIT_LOG, EXPOSURE_LOG, RAW, WITHDRAWAL_LOG
from cmb_models.workspace.versioning import file_at, has_commit, user_name

UNDER_WAY = ("MERGE_HEAD", "REBASE_HEAD", "CHERRY_PICK_HEAD")


def merge_branches(start: Path = Path(".")) -> list[str]:
    """Merge the logs of a git merge that is under way, or that was committed with a broken log.

    The roles stay those of the branch that the registry's aliases follow, this one where they follow neither: what the other
    branch moved is kept in the log and moves nothing.

    Args:
        start: A folder inside the workspace.

    Returns:
        What was done, as sentences.

    Raises:
        InputError: If the registry has none of the releases, there is no such merge, a log is broken on one of the branches, or it
            has entries of neither that do not continue one of them.
    """
    with open_registry(start) as registry, registry_lock(registry), _no_writer(registry.workspace):
        with suppress(Unreachable):
            registry.require_history()
        workspace, done = registry.workspace, []
        ours, theirs = _sides(workspace)
        by = {"user": user_name(workspace), "action": "merge"}
        for file in (AUDIT_LOG, EXPOSURE_LOG, WITHDRAWAL_LOG):
            kept, other = (_log_at(workspace, commit, file) for commit in (ours, theirs))
            if not first_fault(workspace / file) and all(_holds(workspace / file, text) for text in (kept, other)):
                continue
            kept, other = _continued(workspace / file, kept, other)
            about: dict[str, Any] = by
            if file == AUDIT_LOG:
                if _last(other) and _follows(registry, other) and not _follows(registry, kept):
                    kept, other = other, kept
                about = {**by, **_roles(kept, other)}
            entry = merge_logs(workspace / file, kept, other, **about)
            done.append(f"{file}: {len(entry['merged'])} entries of the other branch added" if entry else f"{file}: continued")
        return done


@contextmanager
def _no_writer(workspace: Path) -> Iterator[None]:
    """Hold the locks under which evaluations and withdrawals are logged."""
    with exclusive(workspace), exclusive(workspace / RAW) if (workspace / RAW).is_dir() else nullcontext():
        yield


def _sides(workspace: Path) -> tuple[str, str]:
    """Both commits of a merge."""
    for name in UNDER_WAY:
        if has_commit(workspace, name):
            return "HEAD", name
    if has_commit(workspace, "HEAD^2"):
        return "HEAD^1", "HEAD^2"
    remedy = "run it after `git merge` has reported a conflict; restore a log that is broken otherwise from git or a backup"
    raise InputError("git-no-merge", workspace, "a git merge under way, or as the last commit", "none", remedy)


def _log_at(workspace: Path, commit: str, file: Path) -> str:
    return (file_at(workspace, commit, file) or b"").decode("utf-8")


def _continued(file: Path, ours: str, theirs: str) -> tuple[str, str]:
    """Both sides of a log, this one first; the log itself instead of the side that it continues: entries were added since."""
    working = file.read_text(encoding="utf-8") if file.is_file() else ""
    known = {line for side in (ours, theirs) for line in side.splitlines()}
    added = [entry for entry in read_entries(file) if json.dumps(entry, sort_keys=True) not in known]
    if not added:
        return ours, theirs
    if not first_fault(file):
        for side, other in ((ours, theirs), (theirs, ours)):
            if side and working.startswith(side):
                return working, other
    expected, got = "a log that continues one of both branches", f"{len(added)} that neither has"
    remedy = "restore it by `git checkout` of one branch, and append what it lacks by running those commands again"
    raise InputError("log-damaged", file, expected, got, remedy)


def _last(log: str) -> str:
    """Hash of a log's last entry; "" of an empty or damaged one."""
    try:
        return str(json.loads(log.splitlines()[-1])["sha256"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ""


def _holds(file: Path, log: str) -> bool:
    """Whether a log holds another one's last entry, as its own or as a merged one."""
    entries = read_entries(file)
    return not log or _last(log) in {e["sha256"] for e in entries} | {e["merged_sha256"] for e in entries if "merged" in e}


def _follows(registry: Registry, log: str) -> bool:
    """Whether the registry's aliases reflect an entry of a log; False if the registry does not answer."""
    try:
        n, _, sha256 = registry.head().partition(" ")
    except Unreachable:
        return False
    return bool(n) and _last("\n".join(log.splitlines()[: int(n)])) == sha256


def _roles(kept: str, other: str) -> dict[str, Any]:
    """Fields of the audit log's new entry, which moves no role."""
    states = [state_from_log([json.loads(line) for line in log.splitlines()]) for log in (kept, other) if _last(log)]
    before = states[0].aliases if states else {}
    reason = f"git merge; the other branch ended with {words(states[-1].aliases)}" if states else "git merge"
    no_release: dict[str, Any] = {"release": None, "manifest_sha256": "", "registered_by": "", "gate": [], "gate_report_sha256": ""}
    return {**no_release, "forced": False, "reason": reason, "before": before, "after": before}
