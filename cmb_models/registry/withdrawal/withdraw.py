"""Withdrawal of a patient: remove the scans and marks, record it without a name, and list the releases that used them.

What is to be removed is written down before anything is, so that a withdrawal that was interrupted is completed by the next call.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cmb_models.dataset.layout import dataset_folders
from cmb_models.errors import InputError
from cmb_models.files import changeable, exclusive, read_json, write_json, write_text
from cmb_models.hash_chain import append_entry, read_entries, utc_now, with_merged
from cmb_models.importing.identity import open_key
from cmb_models.registry.mlflow.store import Registry, open_registry
from cmb_models.registry.provenance.trace import Sighting, sightings, sightings_by_name
from cmb_models.registry.withdrawal.plan import Plan, RemovedFile, Target, make_plan, rows_left, subjects_of
from cmb_models.workspace.paths import AUDIT_LOG, DVC_LOCK, INDEX, RAW, SPLIT, WITHDRAWAL_LOG
from cmb_models.workspace.versioning import find_workspace, is_tracked, user_name
from cmb_models.workspace.withdrawals import require_whole

# Ignored by git, and deleted at the end: it names the subject.
JOURNAL = Path("data/.partial-withdrawal.json")


@dataclass(frozen=True)
class Withdrawal:
    """A withdrawal.

    Attributes:
        plan: What was removed, or would be.
        uses: Releases that used one of the removed files, by content.
        named: Releases that used a scan of the subject's name with another content.
        unread: A message for each release that cannot be read, so that the answer is incomplete.
        began: When it was begun, UTC.
        id: Random, by which its entry in the log is known.
        split_fault: Why index and split were not recomputed; "" if they were, or if there are none.
    """

    plan: Plan
    uses: tuple[Sighting, ...]
    named: tuple[Sighting, ...]
    unread: tuple[str, ...]
    began: str
    id: str
    split_fault: str = ""


def withdraw(
    subject: str, datasets: Sequence[str] = (), key_file: Path | None = None, start: Path = Path("."), dry_run: bool = False
) -> Withdrawal:
    """Remove a patient from data/raw and from the key file of imports; the same call completes an interrupted withdrawal.

    Datasets under DVC are added to it again, index and split recomputed, and an entry without a name is appended to
    WITHDRAWAL_LOG. Nothing is committed.

    Args:
        subject: Such as "sub-001".
        datasets: Where this name is the patient's; may be empty if only one dataset has it.
        key_file: Key file of `cmb import` from which the patient is dropped; None leaves it.
        start: A folder inside the workspace.
        dry_run: Only find what would be removed.

    Raises:
        InputError: If the subject is in no dataset, or in several and none was named, another withdrawal is unfinished, the log is
            broken, or the registry cannot be reached; nothing has been changed then. If DVC fails.
    """
    workspace = find_workspace(Path(start))
    if not (workspace / RAW).is_dir():
        raise InputError("workspace-missing", workspace, f"a workspace with {RAW}", "none", "run the command inside a workspace")
    with _locked(workspace / RAW):
        found = _unfinished(workspace, subject, datasets) or _found(workspace, subject, datasets)
        require_whole(workspace)
        if key_file is not None:
            _require_key(key_file, workspace / RAW)
        if dry_run:
            return found
        write_json(workspace / JOURNAL, asdict(found))
        _remove(workspace, found.plan)
        _dvc_add(workspace, found.plan.datasets)
        _log(workspace, found)
        if key_file is not None:
            forget(codes_of(workspace, found.plan), key_file, workspace / RAW)
        fault = _recompute_split(workspace)
        (workspace / JOURNAL).unlink()
    return replace(found, split_fault=fault)


@contextlib.contextmanager
def _locked(raw: Path) -> Iterator[None]:
    """Hold the lock of data/raw, and of each dataset, which imports take: any may have a copy."""
    with contextlib.ExitStack() as stack:
        for folder in (raw, *dataset_folders(raw)):
            stack.enter_context(exclusive(folder))
        yield


def codes_of(workspace: Path, plan: Plan) -> list[str]:
    """The patient's names in a key file: the subject, and those of whole copies unless another dataset has the name too."""
    whole = {(target.dataset, target.subject) for target in plan.targets if target.session is None}
    kept = {s for d in dataset_folders(workspace / RAW) for s in subjects_of(d) if (d.name, s) not in whole}
    return sorted({plan.subject} | ({subject for _, subject in whole} - kept))


def forget(subjects: Sequence[str], key_file: Path, raw: Path) -> bool:
    """Drop a patient's subjects from a key file of imports; whether it had one of them."""
    _require_key(key_file, raw)
    with exclusive(key_file.resolve().parent):
        key = open_key(key_file, raw)
        known = [key.drop(subject) for subject in subjects]
        if any(known):
            key.save()
    return any(known)


def _require_key(key_file: Path, raw: Path) -> None:
    if not key_file.is_file():
        raise InputError("import-key", key_file, "the key file of an import", "no such file", "correct --key")
    open_key(key_file, raw)


def _found(workspace: Path, subject: str, datasets: Sequence[str]) -> Withdrawal:
    plan = make_plan(workspace, subject, datasets)
    with open_registry(workspace) as registry:
        uses, named, unread = _uses(registry, plan)
    return Withdrawal(plan, uses, named, unread, utc_now(), secrets.token_hex(8))


def _uses(registry: Registry, plan: Plan) -> tuple[tuple[Sighting, ...], tuple[Sighting, ...], tuple[str, ...]]:
    if registry.is_local and not (registry.workspace / "mlflow.db").is_file() and not read_entries(registry.workspace / AUDIT_LOG):
        return (), (), ()
    uses, unread = sightings(registry, plan.hashes)
    seen = {(use.release, use.key) for use in uses}
    by_name, _ = sightings_by_name(registry, [f"{t.dataset}_{t.subject}" for t in plan.targets if t.session is None])
    return tuple(uses), tuple(use for use in by_name if (use.release, use.key) not in seen), tuple(unread)


def _unfinished(workspace: Path, subject: str, datasets: Sequence[str]) -> Withdrawal | None:
    """The interrupted withdrawal of this subject. Raises InputError for one of another."""
    if not (workspace / JOURNAL).is_file():
        return None
    try:
        found = _from_dict(read_json(workspace / JOURNAL))
    except (ValueError, KeyError, TypeError) as error:
        got = f"one of another version, or damaged ({type(error).__name__}: {error})"
        remedy = "complete it with the version that began it; without this file, only what is still there is withdrawn and logged"
        raise InputError("withdrawal-unfinished", JOURNAL, "the plan of an interrupted withdrawal", got, remedy) from error
    own = [t.dataset for t in found.plan.targets if t.subject == found.plan.subject and t.session is None]
    if found.plan.subject != subject or not {*datasets} <= {*own}:
        options = " ".join(f"--dataset {name}" for name in own)
        remedy = f"complete it first: `cmb data withdraw {found.plan.subject} {options}`"
        raise InputError("withdrawal-unfinished", subject, "no unfinished withdrawal", f"that of {found.plan.subject}", remedy)
    return found


def _from_dict(saved: dict[str, Any]) -> Withdrawal:
    plan = saved["plan"]
    targets, files = tuple(Target(**t) for t in plan["targets"]), tuple(RemovedFile(**f) for f in plan["files"])
    uses, named = (tuple(_sighting(s) for s in saved[name]) for name in ("uses", "named"))
    behind = tuple(RemovedFile(**f) for f in plan.get("behind", ()))  # as others, alike and linked not of the first version
    others, alike, linked = tuple(plan.get("others", ())), tuple(plan.get("alike", ())), plan.get("linked", {})
    whole = Plan(plan["subject"], targets, files, plan["rows"], others, behind, alike, linked)
    return Withdrawal(whole, uses, named, tuple(saved["unread"]), saved["began"], saved["id"])


def _sighting(saved: dict[str, Any]) -> Sighting:
    return Sighting(saved["release"], tuple(saved["aliases"]), tuple(saved["roles"]), saved["key"], saved["sha256"])


def _remove(workspace: Path, plan: Plan) -> None:
    """Delete the files, the folders that they leave empty, and the rows."""
    for file in plan.files:
        path = workspace / file.path
        with changeable(path.parent):
            path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder.parent == workspace / RAW or folder == workspace / RAW:
                break
            with contextlib.suppress(OSError):  # not empty, or removed before
                folder.rmdir()
    for table in plan.rows:
        text, removed = rows_left(workspace, workspace / table, plan.targets)
        if removed:
            write_text(workspace / table, text)


def _dvc_add(workspace: Path, datasets: Sequence[str]) -> None:
    """Record the new state of the datasets that are under DVC."""
    targets = [(RAW / name).as_posix() for name in datasets if (workspace / RAW / f"{name}.dvc").is_file()]
    if not targets:
        return
    done = dvc(workspace, "add", "-q", *targets)
    if done.returncode:
        got = " ".join((done.stderr or done.stdout).split("Having any troubles?")[0].split())[-300:]
        expected = f"`dvc add {' '.join(targets)}` to succeed"
        raise InputError("dvc-failed", workspace, expected, got, "correct it, and run the command again")


def _log(workspace: Path, found: Withdrawal) -> None:
    """Append the entry, once."""
    file = workspace / WITHDRAWAL_LOG
    if any(entry.get("id") == found.id for entry in with_merged(read_entries(file))):
        return
    scans = [f for f in found.plan.seen if f.content_sha256]
    append_entry(
        file,
        began=found.began,
        id=found.id,
        user=user_name(workspace),
        datasets=list(found.plan.datasets),
        scans=sorted({f.content_sha256 for f in scans}),
        files=sorted({f.sha256 for f in found.plan.seen if f.sha256}),
        rows=sum(found.plan.rows.values()),
        releases=_by_release(found.uses),
        releases_by_name=_by_release(found.named),
        unread=len(found.unread),
    )


def _by_release(uses: Sequence[Sighting]) -> list[dict[str, Any]]:
    numbers = sorted({use.release for use in uses})
    return [{"release": n, "roles": sorted({role for use in uses if use.release == n for role in use.roles})} for n in numbers]


def _recompute_split(workspace: Path) -> str:
    """Recompute index and split where the workspace has them; why that failed, or ""."""
    if not (workspace / DVC_LOCK).is_file() or not all(is_tracked(workspace, out) for out in (INDEX, SPLIT)):
        return ""
    done = dvc(workspace, "repro", "split")
    if not done.returncode:
        return ""
    text = done.stdout + done.stderr
    _, _, error = text.partition("error: ")
    return " ".join(error.partition("\nERROR:")[0].split()) or " ".join(text.split())[-300:]


def dvc(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a DVC command in the workspace."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # where the stages find this python
    environment = os.environ | {"DVC_NO_ANALYTICS": "true", "PATH": path}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=workspace, env=environment, text=True, capture_output=True, check=False)
