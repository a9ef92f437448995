"""Moving the aliases `production` and `previous`: the gate, the log entry, then the move."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.chain import append_entry, first_fault, read_entries
from cmb_models.errors import InputError
from cmb_models.registry.store import MODEL, STATE_DIR, Registry, Release, open_registry
from cmb_models.registry.workspace import AUDIT_FILE, PARAMS_FILE, user_name

if TYPE_CHECKING:
    from cmb_models.registry.gate import Check, GateReport

PRODUCTION, PREVIOUS = "production", "previous"


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback did. moved is False when nothing was to do or the gate failed; before: the old production."""

    release: int
    before: int | None
    moved: bool
    checks: tuple[Check, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)


def promote(ref: str, reason: str = "", start: Path = Path(".")) -> Move:
    """Make a release (number, `latest` or alias) production if it passes the gate; the old production becomes previous.

    Returns with `failed` checks and nothing moved or logged when the gate fails. Raises InputError for an unknown or changed
    release and for a broken audit log.
    """
    with open_registry(start) as registry, registry_lock(registry):
        release, aliases = registry.resolve(ref), registry.aliases()
        before = aliases.get(PRODUCTION)
        if release.number == before:
            return Move(release.number, before, moved=False)
        _require_whole_log(registry.workspace)
        report = _gate(registry, release, before)
        move = Move(release.number, before, report.passed, report.checks)
        if move.moved:
            _move(registry, "promote", aliases, {PRODUCTION: release.number, PREVIOUS: before}, reason, report.checks)
        return move


def rollback(reason: str = "", start: Path = Path(".")) -> Move:
    """Swap production and previous. Raises InputError when there is no previous release or its files were changed."""
    with open_registry(start) as registry, registry_lock(registry):
        aliases = registry.aliases()
        before, target = aliases.get(PRODUCTION), aliases.get(PREVIOUS)
        if before is None or target is None:
            raise InputError(PREVIOUS, "an earlier production release to go back to", "none", "promote a release instead")
        registry.fetch(registry.resolve(str(target)))
        _move(registry, "rollback", aliases, {PRODUCTION: target, PREVIOUS: before}, reason, ())
        return Move(target, before, moved=True)


def audit_fault(start: Path = Path(".")) -> str:
    """The first thing wrong with the audit log, its chain or its last entry against the aliases, in words; "" when it holds."""
    with open_registry(start) as registry:
        fault = first_fault(registry.workspace / AUDIT_FILE)
        if fault:
            return fault
        aliases = {k: v for k, v in registry.aliases().items() if k in (PRODUCTION, PREVIOUS)}
        entries = read_entries(registry.workspace / AUDIT_FILE)
        logged = entries[-1]["after"] if entries else {}
        if logged != aliases:
            ends = f"the aliases are {_words(aliases)} but {AUDIT_FILE} ends with {_words(logged)}"
            return f"{ends}: moved outside `cmb`, or a command was killed midway"
        return ""


@contextmanager
def registry_lock(registry: Registry) -> Iterator[None]:
    """One change of the registry at a time in a workspace: waits for the other. A killed holder's lock ends with it."""
    file = registry.workspace / STATE_DIR / "registry.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _gate(registry: Registry, release: Release, before: int | None) -> GateReport:
    from cmb_models.config import load_params  # here, since a release that is production already needs neither
    from cmb_models.registry.gate import check_gate

    production = registry.fetch(registry.resolve(str(before))).bundle_dir if before else None
    return check_gate(registry.fetch(release).bundle_dir, load_params(registry.workspace / PARAMS_FILE).gate, production)


def _move(registry: Registry, action: str, old: dict[str, int], new: dict[str, int | None], reason: str, checks: tuple) -> None:
    """Log first, then move: killed in between, the log names the aliases' goal and `cmb audit verify` shows the difference."""
    keys = (PRODUCTION, PREVIOUS)
    after = {k: n for k in keys if (n := new.get(k)) is not None}
    append_entry(
        registry.workspace / AUDIT_FILE,
        user=user_name(registry.workspace),
        action=action,
        release=new[PRODUCTION],
        manifest_sha256=registry.resolve(str(new[PRODUCTION])).tags.get("manifest_sha256", ""),
        reason=reason,
        gate=[c.as_dict() for c in checks],
        before={k: old[k] for k in keys if k in old},
        after=after,
    )
    for alias in reversed(keys):  # production last: the move that counts
        if alias in after:
            registry.client.set_registered_model_alias(MODEL, alias, str(after[alias]))
        elif alias in old:
            registry.client.delete_registered_model_alias(MODEL, alias)


def _require_whole_log(workspace: Path) -> None:
    fault = first_fault(workspace / AUDIT_FILE)
    if fault:
        raise InputError(workspace / AUDIT_FILE, "an unbroken log", fault, "restore it from git or a backup before promoting")


def _words(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} {n}" for alias, n in sorted(aliases.items(), reverse=True)) or "unset"
