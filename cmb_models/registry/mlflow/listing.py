"""Rows of `cmb release list`: role, metrics, data, age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cmb_models.registry.history.state import ROLES, registry_state
from cmb_models.registry.mlflow.store import Registry

COLUMNS = ("release", "role", "sensitivity", "FP/scan", "data", "age", "commit")
FIGURES = ("sensitivity", "fp_per_scan")
SHOWN = ("created", "user", "git_commit", "data_sha256", "manifest_sha256", "parent_release")


@dataclass(frozen=True)
class Listed:
    """One release. role: production, previous, challenger or "" by the audit log; aliases: those in MLflow; tags: its lineage."""

    number: int
    role: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    is_registered: bool
    now: datetime

    @property
    def age_s(self) -> int | None:
        """Seconds since registration; None if unknown."""
        try:
            created = datetime.fromisoformat(self.tags.get("created", ""))
            return max(0, int((self.now - created).total_seconds()))
        except (ValueError, TypeError):
            return None

    def as_dict(self) -> dict[str, Any]:
        """As JSON; metrics stay text, as they were recorded."""
        recorded = {key: self.tags.get(key) for key in (*FIGURES, *SHOWN)}
        base = {"release": self.number, "role": self.role or None, "aliases": list(self.aliases)}
        return {**base, **recorded, "age_s": self.age_s, "is_registered": self.is_registered}

    def row(self) -> tuple[str, ...]:
        """As text, one cell per column of COLUMNS."""
        figures = (_figure(self.tags.get(key)) for key in FIGURES)
        data, commit = (self.tags.get(key, "")[:8] or "-" for key in ("data_sha256", "git_commit"))
        return str(self.number), self._role_cell(), *figures, data, _age(self.age_s), commit

    def _role_cell(self) -> str:
        """The role, then how MLflow differs from the log: other aliases, or no such release."""
        others = [f"{alias} in MLflow" for alias in self.aliases if alias != self.role]
        gone = [] if self.is_registered else ["not in MLflow"]
        return "\n".join([self.role or "–", *others, *gone])


def listed_releases(registry: Registry) -> list[Listed]:
    """All releases, oldest first, including releases with a role that MLflow does not have."""
    logged, now = registry_state(registry.workspace), datetime.now(UTC)
    roles = {logged.aliases[role]: role for role in reversed(ROLES) if role in logged.aliases}
    found = [Listed(r.number, roles.get(r.number, ""), r.aliases, r.tags, True, now) for r in registry.releases()]
    for number in sorted(set(roles) - {r.number for r in found}):
        tags = {"manifest_sha256": logged.manifests.get(number, "")}
        found.append(Listed(number, roles[number], (), tags, False, now))
    return sorted(found, key=lambda r: r.number)


def _figure(text: str | None) -> str:
    try:
        return "-" if text is None else f"{float(text):.3g}"
    except ValueError:
        return "-"


def _age(seconds: int | None) -> str:
    """The largest unit that fits: `3 d`."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
