"""Does everything still agree: the log with itself, with the registry's aliases, and with what was kept?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.hash_chain import first_fault, read_entries
from cmb_models.registry.history.archive import gate_report, kept_bundle, read_report, require_kept
from cmb_models.registry.history.state import ROLES, RegistryState, state_from_log, words
from cmb_models.registry.mlflow.store import Registry, open_registry, require_not_behind, require_same
from cmb_models.workspace.paths import AUDIT_LOG

RESUME = "`cmb release repair` sets them as the log says"


@dataclass(frozen=True)
class AuditReport:
    """faults: what does not hold, the first broken link first; notes: what is worth knowing and breaks nothing. In words."""

    entries: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.faults


def audit(start: Path = Path(".")) -> AuditReport:
    """Check the audit log of the workspace around `start`, its aliases and what it keeps. After a broken link nothing else is
    asked: what stands behind it is not known."""
    with open_registry(start) as registry:
        file = registry.workspace / AUDIT_LOG
        fault, entries = first_fault(file), read_entries(file)
        if fault:
            return AuditReport(len(entries), (fault,), ())
        logged = state_from_log(entries)
        faults = [*_clock(entries), *_registry_faults(registry, logged, entries), *_kept_faults(registry.workspace, entries)]
        return AuditReport(len(entries), tuple(faults), tuple(_notes(registry, logged, entries)))


def audit_fault(start: Path = Path(".")) -> str:
    """The first thing that does not hold, in words; "" when all does."""
    return next(iter(audit(start).faults), "")


def moved_outside(registry: Registry, logged: RegistryState) -> str:
    """How the registry's aliases differ from what the log says, in words; "" when they agree.

    A release that was deleted in MLflow can have no alias there and is not asked for one.
    """
    there = {r.number for r in registry.releases()}
    expected = {role: n for role, n in logged.aliases.items() if n in there}
    found = {role: n for role, n in registry.aliases().items() if role in ROLES}
    if found == expected:
        return ""
    ends = f"the aliases are {words(found)} but {AUDIT_LOG} ends with {words(expected)}"
    return f"{ends}: moved outside `cmb`, or a command was killed midway; {RESUME}"


def _clock(entries: list[dict[str, Any]]) -> Iterator[str]:
    for before, after in pairwise(entries):
        if after["time"] < before["time"]:
            yield f"{AUDIT_LOG} line {after['n']} is of {after['time']}, before the line before it ({before['time']})"


def _registry_faults(registry: Registry, logged: RegistryState, entries: list[dict[str, Any]]) -> Iterator[str]:
    head = registry.head()
    try:
        require_not_behind(logged, head)
    except InputError as error:
        yield str(error)
        return  # the aliases follow entries that are not here
    n, _, digest = head.partition(" ")
    if head and entries[int(n) - 1]["sha256"] != digest:
        yield f"{AUDIT_LOG} line {n} is not the one that moved the registry's aliases: the log was written anew"
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
    for entry in entries:
        if digest := entry.get("gate_report_sha256", ""):
            try:
                read_report(workspace, entry["release"], entry["manifest_sha256"], digest)
            except InputError as error:
                yield str(error)


def _notes(registry: Registry, logged: RegistryState, entries: list[dict[str, Any]]) -> Iterator[str]:
    there = {r.number for r in registry.releases()}
    for role, number in logged.aliases.items():
        folder = kept_bundle(registry.workspace, number, logged.manifests.get(number, ""))
        where = f"its files are kept in {folder}" if folder.is_dir() else "and its files are not kept here either"
        if number not in there:
            yield f"release {number} ({role}) was deleted from MLflow; {where}"
        elif not folder.is_dir():
            yield f"release {number} ({role}) is not kept here: {folder} is missing"
    for entry in entries:
        if entry.get("clock"):
            yield f"line {entry['n']}: the clock stood at {entry['clock']}, before the entry before; it carries that one's time"
        digest = entry.get("gate_report_sha256", "")
        if digest and not gate_report(registry.workspace, entry["release"], entry["manifest_sha256"], digest).is_file():
            yield f"line {entry['n']}: the gate report of release {entry['release']} ({digest[:8]}) is not kept here"
