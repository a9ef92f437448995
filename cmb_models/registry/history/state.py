"""The roles according to the audit log: which release is production, previous and challenger, now or on any past day.

The log is authoritative and the aliases in MLflow follow it, since anyone can move these without a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.hash_chain import read_entries, with_merged
from cmb_models.workspace.paths import AUDIT_LOG

PRODUCTION, PREVIOUS, CHALLENGER = ROLES = ("production", "previous", "challenger")
END_OF_DAY = "T23:59:59Z"


@dataclass(frozen=True)
class RegistryState:
    """The state after a log. aliases: release numbers by role; manifests: of every release, of merged branches too.

    n, sha256: of its last entry.
    """

    aliases: dict[str, int]
    manifests: dict[int, str]
    n: int = 0
    sha256: str = ""

    @property
    def head(self) -> str:
        """Number and hash of the last entry, as tagged in the registry; "" before the first."""
        return f"{self.n} {self.sha256}" if self.n else ""


def registry_state(workspace: Path) -> RegistryState:
    """The current state of the workspace's log, whose hash chain is not verified."""
    return state_from_log(read_entries(Path(workspace) / AUDIT_LOG))


def state_from_log(entries: list[dict[str, Any]]) -> RegistryState:
    """The state after these entries, oldest first."""
    if not entries:
        return RegistryState({}, {})
    last = entries[-1]
    # Merged entries first: this branch's own win where two registries gave a number twice.
    manifests = {e["release"]: e["manifest_sha256"] for e in (*with_merged(entries), *entries) if e.get("release")}
    return RegistryState(dict(last["after"]), manifests, last["n"], last["sha256"])


def state_at(entries: list[dict[str, Any]], when: str) -> dict[str, dict[str, Any]]:
    """Look up the roles at a time in the past.

    Args:
        entries: Of the audit log.
        when: UTC, YYYY-MM-DD for the end of that day or YYYY-MM-DDTHH:MM:SSZ.

    Returns:
        The log entry that assigned each role, by role; {} if nothing had been promoted.

    Raises:
        InputError: For another format of `when`.
    """
    moment = _moment(when)
    past = [e for e in entries if e["time"] <= moment]
    found = {}
    for role in ROLES:
        holder = past[-1]["after"].get(role) if past else None
        if holder is None:
            continue
        assigned = (e for e in reversed(past) if e["after"].get(role) == holder and e["before"].get(role) != holder)
        found[role] = next(assigned, past[-1])
    return found


def words(aliases: dict[str, int]) -> str:
    """Aliases as text, production first."""
    return ", ".join(f"{role} {aliases[role]}" for role in ROLES if role in aliases) or "unset"


def _moment(when: str) -> str:
    try:
        if len(when) == len("2026-01-31"):
            return datetime.strptime(when, "%Y-%m-%d").strftime("%Y-%m-%d") + END_OF_DAY
        parsed = datetime.fromisoformat(when)
        moment = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        expected = "a day as 2026-01-31 or a time as 2026-01-31T12:00:00Z"
        raise InputError("time-invalid", "--at", expected, repr(when), "give one of these; times are UTC") from error
