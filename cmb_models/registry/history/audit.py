"""Verification of the audit log: its hash chain, the registry's aliases and the archived releases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.hash_chain import first_fault, read_entries, with_merged
from cmb_models.registry.history.archive import gate_report, kept_bundle, read_report, require_kept
from cmb_models.registry.history.state import ROLES, RegistryState, state_from_log, words
from cmb_models.registry.mlflow.store import Registry, open_registry, require_not_behind, require_same
from cmb_models.workspace.paths import AUDIT_LOG

RESUME = "`cmb release repair` sets them as logged"


@dataclass(frozen=True)
class AuditReport:
    """faults: inconsistencies, a broken hash chain first; notes: harmless observations. Both as sentences."""

    entries: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.faults


def audit(start: Path = Path(".")) -> AuditReport:
    """Verify the audit log of the workspace around `start`, the registry's roles and the archived files.

    Returns:
        The report; faults are listed in it, not raised. If the hash chain is broken, nothing else is verified.
    """
    with open_registry(start) as registry:
        file = registry.workspace / AUDIT_LOG
        fault, entries = first_fault(file), read_entries(file)
        if fault:
            return AuditReport(len(entries), (fault,), ())
        logged = state_from_log(entries)
        faults = [*_clock(entries), *_registry_faults(registry, logged, entries), *_kept_faults(registry.workspace, entries)]
        return AuditReport(len(entries), tuple(faults), tuple(_notes(registry, logged, entries)))


def audit_fault(start: Path = Path(".")) -> str:
    """The first fault; "" if there is none."""
    return next(iter(audit(start).faults), "")


def moved_outside(registry: Registry, logged: RegistryState) -> str:
    """How the registry's aliases differ from the log; "" if they agree.

    A release that was deleted from MLflow is not expected to have an alias.
    """
    registered = {r.number for r in registry.releases()}
    expected = {role: n for role, n in logged.aliases.items() if n in registered}
    found = {role: n for role, n in registry.aliases().items() if role in ROLES}
    if found == expected:
        return ""
    difference = f"the aliases are {words(found)} but {AUDIT_LOG} ends with {words(expected)}"
    return f"{difference}: moved outside `cmb`, or a command was interrupted; {RESUME}"


def _clock(entries: list[dict[str, Any]]) -> Iterator[str]:
    for before, after in pairwise(entries):
        if after["time"] < before["time"]:
            yield f"{AUDIT_LOG} line {after['n']} is dated {after['time']}, before its predecessor ({before['time']})"


def _registry_faults(registry: Registry, logged: RegistryState, entries: list[dict[str, Any]]) -> Iterator[str]:
    head = registry.head()
    try:
        require_not_behind(logged, head)
    except InputError as error:
        yield str(error)
        return  # the aliases reflect entries that this log lacks
    n, _, digest = head.partition(" ")
    if head and entries[int(n) - 1]["sha256"] != digest:
        yield f"{AUDIT_LOG} line {n} is not the one that moved the registry's aliases: the log was rewritten"
    if moved := moved_outside(registry, logged):
        yield moved
    for release in registry.releases():
        try:
            require_same(release, logged)
        except InputError as error:
            yield str(error)


def _kept_faults(workspace: Path, entries: list[dict[str, Any]]) -> Iterator[str]:
    for number, manifest in sorted(state_from_log(entries).manifests.items()):
        folder = kept_bundle(workspace, number, manifest)
        if folder.is_dir():
            try:
                require_kept(folder, manifest)
            except InputError as error:
                yield str(error)
    for entry in with_merged(entries):
        if digest := entry.get("gate_report_sha256", ""):
            try:
                read_report(workspace, entry["release"], entry["manifest_sha256"], digest)
            except InputError as error:
                yield str(error)


def _notes(registry: Registry, logged: RegistryState, entries: list[dict[str, Any]]) -> Iterator[str]:
    registered = {r.number for r in registry.releases()}
    for role, number in logged.aliases.items():
        folder = kept_bundle(registry.workspace, number, logged.manifests.get(number, ""))
        where = f"its files are in {folder}" if folder.is_dir() else "and its files are not archived here either"
        if number not in registered:
            yield f"release {number} ({role}) is not in MLflow; {where}"
        elif not folder.is_dir():
            yield f"release {number} ({role}) is not archived here: {folder} is missing"
    for entry in entries:
        if entry.get("clock"):
            yield f"line {entry['n']}: the clock ({entry['clock']}) was behind the previous entry, whose time was used"
    for entry in with_merged(entries):
        digest = entry.get("gate_report_sha256", "")
        if digest and not gate_report(registry.workspace, entry["release"], entry["manifest_sha256"], digest).is_file():
            yield f"{entry['time']}: the gate report of release {entry['release']} ({digest[:8]}) is not archived here"
