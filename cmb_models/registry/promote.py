"""Assignment of the roles production, previous and challenger: run the gate, archive the bundle, log the move, update the aliases.

The log entry commits the move. If a command is killed earlier, nothing has changed; if later, `resume` updates the aliases.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models.errors import InputError
from cmb_models.hash_chain import append_entry, first_fault, read_entries
from cmb_models.registry.history.archive import gate_report, keep, keep_report
from cmb_models.registry.history.audit import audit_fault, moved_outside
from cmb_models.registry.history.lock import first_only, registry_lock
from cmb_models.registry.history.state import CHALLENGER, PREVIOUS, PRODUCTION, ROLES, RegistryState, registry_state, words
from cmb_models.registry.mlflow.connection import Unreachable
from cmb_models.registry.mlflow.store import Registry, Release, open_registry, require_not_behind
from cmb_models.registry.provenance.lineage import require_lineage
from cmb_models.workspace.paths import AUDIT_LOG, PARAMS
from cmb_models.workspace.versioning import user_name

if TYPE_CHECKING:
    from cmb_models.config.params import Params
    from cmb_models.registry.gate.check import Check, GateReport

__all__ = [
    "PRODUCTION",
    "Move",
    "audit_fault",
    "challenge",
    "promote",
    "registry_lock",
    "resume",
    "rollback",
    "withdraw_challenger",
]

GATE_ARTIFACTS = "gate"  # folder of a release's MLflow run that holds its gate reports

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Move:
    """The outcome of a command.

    Attributes:
        release: The release that the command was about.
        before: The release that had the role before.
        moved: False if there was nothing to do or the gate failed.
        checks: The gate's checks.
        forced: The gate failed and was overridden.
        notes: Anything unusual, as sentences.
    """

    release: int
    before: int | None
    moved: bool
    checks: tuple[Check, ...] = ()
    forced: bool = False
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)


def promote(ref: str, reason: str = "", start: Path = Path("."), force: bool = False) -> Move:
    """Make a release production if it passes the gate; the old production becomes previous.

    Args:
        ref: Release number, `latest` or alias.
        reason: Why, for the audit log.
        start: A folder inside the workspace.
        force: Promote it even if the gate fails, which needs a reason and is marked in the log. Otherwise a failed gate returns
            `failed` checks, with nothing moved or logged.

    Raises:
        InputError: For an unknown or changed release, a lineage that git and DVC contradict, a broken log, aliases that were moved
            outside `cmb`, and a promoter who also registered the release if `promotion.approver_differs` is set.
    """
    _require_reason(reason, force, "--override-gate")
    with open_registry(start) as registry, first_only(registry):
        release, logged = registry.resolve(ref), _logged(registry)
        before = logged.aliases.get(PRODUCTION)
        if release.number == before:
            return Move(release.number, before, moved=False)
        if moved := moved_outside(registry, logged):
            raise InputError("registry-disagrees", "registry", f"aliases as {AUDIT_LOG} ends", moved, "then promote again")
        params = _params(registry)
        _require_other_approver(registry, release, params)
        bundle = registry.fetch(release).bundle_dir
        require_lineage(registry.workspace, bundle, release.tags)
        report = _gate(registry, bundle, before, params)
        forced = force and not report.passed
        if not (report.passed or forced):
            return Move(release.number, before, False, report.checks)
        challenger = logged.aliases.get(CHALLENGER)
        after = {PRODUCTION: release.number, PREVIOUS: before, CHALLENGER: challenger if challenger != release.number else None}
        notes = _move(registry, "promote", release, logged, after, reason, report, forced)
        return Move(release.number, before, True, report.checks, forced, notes)


def challenge(ref: str, reason: str = "", start: Path = Path(".")) -> Move:
    """Make a release the challenger, which runs in shadow mode; the gate is run and its report kept, but need not pass."""
    with open_registry(start) as registry, first_only(registry):
        release, logged = registry.resolve(ref), _logged(registry)
        before = logged.aliases.get(CHALLENGER)
        if release.number == before:
            return Move(release.number, before, moved=False)
        if release.number == logged.aliases.get(PRODUCTION):
            raise InputError(
                "role-taken", f"release {release.number}", "a release that is not production", "production", "choose another"
            )
        report = _gate(registry, registry.fetch(release).bundle_dir, logged.aliases.get(PRODUCTION), _params(registry))
        notes = _move(registry, "challenge", release, logged, {**logged.aliases, CHALLENGER: release.number}, reason, report)
        return Move(release.number, before, True, report.checks, notes=notes)


def withdraw_challenger(reason: str = "", start: Path = Path(".")) -> Move:
    """Remove the challenger role. Raises InputError if there is no challenger."""
    with open_registry(start) as registry, first_only(registry):
        logged = _logged(registry)
        before = logged.aliases.get(CHALLENGER)
        if before is None:
            raise InputError("role-empty", CHALLENGER, "a challenger to withdraw", "none", "see `cmb release list`")
        after = {**logged.aliases, CHALLENGER: None}
        notes = _move(registry, "withdraw challenger", registry.resolve(str(before)), logged, after, reason)
        return Move(before, before, True, notes=notes)


def rollback(reason: str, start: Path = Path(".")) -> Move:
    """Swap production and previous as the audit log has them, whatever the aliases. Needs a reason.

    Works while MLflow is unreachable; `resume` then updates the aliases later.

    Raises:
        InputError: If there is no previous release or its files were changed.
    """
    _require_reason(reason, True, "a rollback")
    with open_registry(start) as registry, first_only(registry):
        logged = _logged(registry, offline=True)
        before, target = logged.aliases.get(PRODUCTION), logged.aliases.get(PREVIOUS)
        if before is None or target is None:
            raise InputError(
                "role-empty", PREVIOUS, "an earlier production release to go back to", "none", "promote a release instead"
            )
        after: dict[str, int | None] = {**logged.aliases, PRODUCTION: target, PREVIOUS: before}
        if after.get(CHALLENGER) == target:
            after[CHALLENGER] = None
        notes = _move(registry, "rollback", registry.resolve(PREVIOUS), logged, after, reason)
        return Move(target, before, True, notes=notes)


def resume(start: Path = Path(".")) -> list[str]:
    """Make the registry agree with the log after a killed command or an alias moved outside `cmb`; return the repairs made.

    Raises:
        InputError: For a broken log, and a registry that has none of its releases.
    """
    with open_registry(start) as registry, registry_lock(registry):
        registry.require_history()
        logged, repairs = _logged(registry), []
        if moved_outside(registry, logged) or registry.head() != logged.head:
            found = {role: n for role, n in registry.aliases().items() if role in ROLES}
            _follow(registry, logged)
            repairs.append(f"the aliases were {words(found)} and are {words(logged.aliases)}")
        for entry in read_entries(registry.workspace / AUDIT_LOG)[-1:]:
            digest = entry.get("gate_report_sha256", "")
            file = gate_report(registry.workspace, entry["release"], entry["manifest_sha256"], digest)
            if digest and file.is_file() and _log_report(registry, registry.resolve(str(entry["release"])), file) is True:
                repairs.append(f"the gate report of release {entry['release']} was added to its MLflow run")
        return repairs


def _require_reason(reason: str, needed: bool, what: str) -> None:
    if needed and not reason.strip():
        raise InputError("reason-missing", "--reason", f"why, for {what}", "nothing", "give one: it is kept in the audit log")


def _logged(registry: Registry, offline: bool = False) -> RegistryState:
    """The state in the log, which must be unbroken and not behind the registry. offline: accept an unreachable registry."""
    file = registry.workspace / AUDIT_LOG
    if fault := first_fault(file):
        raise InputError(
            "log-damaged",
            file,
            "an unbroken log",
            fault,
            "restore it from git or a backup; after a git merge, run `cmb release merge`",
        )
    logged = registry_state(registry.workspace)
    try:
        require_not_behind(logged, registry.head())
    except Unreachable:
        if not offline:
            raise
    return logged


def _params(registry: Registry) -> Params:
    from cmb_models.config.params import load_params  # a rollback does without it

    return load_params(registry.workspace / PARAMS)


def _require_other_approver(registry: Registry, release: Release, params: Params) -> None:
    if not params.promotion.approver_differs:
        return
    user, trainer = user_name(registry.workspace), release.tags.get("user", "")
    if not trainer or _mail(user) == _mail(trainer):
        expected = "an approver other than the user who registered it (promotion.approver_differs)"
        raise InputError(
            "approver-needed", f"release {release.number}", expected, trainer or "no user recorded", "have someone else promote it"
        )


def _mail(user: str) -> str:
    """The e-mail address of `Name <address>`, which identifies a user."""
    return user.rpartition("<")[2].strip("> ").lower()


def _gate(registry: Registry, bundle: Path, production: int | None, params: Params) -> GateReport:
    from cmb_models.registry.gate.check import check_gate

    against = registry.fetch(registry.resolve(PRODUCTION)).bundle_dir if production else None
    return check_gate(bundle, params.gate, against)


def _move(
    registry: Registry,
    action: str,
    release: Release,
    logged: RegistryState,
    goal: dict[str, int | None],
    reason: str,
    report: GateReport | None = None,
    forced: bool = False,
) -> tuple[str, ...]:
    """Archive bundle and report, log the move, update the aliases; return notes. This order makes it crash-safe."""
    workspace, manifest = registry.workspace, release.tags.get("manifest_sha256", "")
    if release.number in goal.values():
        keep(workspace, release.number, registry.fetch(release).bundle_dir, manifest)
    report_file, digest = None, ""
    if report is not None:
        content = {**report.as_dict(), "release": release.number, "forced": forced}
        report_file, digest = keep_report(workspace, release.number, manifest, content)
    aliases = _aliases(registry, logged)
    entry = append_entry(
        workspace / AUDIT_LOG,
        user=user_name(workspace),
        registered_by=release.tags.get("user", ""),
        action=action,
        release=release.number,
        manifest_sha256=manifest,
        reason=reason.strip(),
        forced=forced,
        gate=[c.as_dict() for c in report.checks] if report else [],
        gate_report_sha256=digest,
        before=logged.aliases,
        after={role: n for role in ROLES if (n := goal.get(role)) is not None},
        **({} if aliases == logged.aliases else {"found": aliases}),  # moved outside `cmb`, corrected by this move
    )
    return _after(registry, release, entry, report_file)


def _aliases(registry: Registry, logged: RegistryState) -> dict[str, int]:
    """The aliases in MLflow; as logged if it is unreachable."""
    try:
        return {role: n for role, n in registry.aliases().items() if role in ROLES}
    except Unreachable:
        return logged.aliases


def _after(registry: Registry, release: Release, entry: dict[str, Any], report: Path | None) -> tuple[str, ...]:
    """Update the aliases after a logged move and attach the gate report to the MLflow run; return notes."""
    notes = []
    if "clock" in entry:
        notes.append(f"the clock ({entry['clock']}) is behind the last entry of the log; this entry is dated {entry['time']}")
    try:
        _follow(registry, registry_state(registry.workspace))
    except Unreachable as error:
        notes.append(f"the move is logged, but the aliases are not updated; run `cmb release repair`: {error}")
        return tuple(notes)
    logged = _log_report(registry, release, report) if report else True
    return (*notes, logged) if isinstance(logged, str) else tuple(notes)


def _follow(registry: Registry, logged: RegistryState) -> None:
    registry.move({role: logged.aliases.get(role) for role in ROLES}, logged.head)


def _log_report(registry: Registry, release: Release, file: Path) -> bool | str:
    """Attach a gate report to the MLflow run; return True if added, False if already present, else an explanation."""
    if not release.run_id:
        return f"release {release.number} is not in MLflow any more, so its gate report is kept in {file} alone"
    try:
        if any(Path(f.path).name == file.name for f in registry.client.list_artifacts(release.run_id, GATE_ARTIFACTS)):
            return False
        registry.client.log_artifact(release.run_id, str(file), GATE_ARTIFACTS)
        return True
    except Exception as error:  # stores raise many types; the move is done and the report archived
        return f"the gate report was not added to MLflow ({' '.join(str(error).split())[:200]}); it is kept in {file}"
