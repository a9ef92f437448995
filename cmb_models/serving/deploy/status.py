"""Status of registry and servers: the desired and observed release of each role, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.serving.deploy.observed import Admin, ObservedState
from cmb_models.serving.run.devices import step_devices
from cmb_models.serving.triton.repository import ROLES

COLUMNS = ("", *ROLES, "loaded", "agrees")


@dataclass(frozen=True)
class Named:
    """A release by number and content."""

    release: int
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.release} {self.manifest_sha256[:8]}"


@dataclass(frozen=True)
class ServerStatus:
    """One server. aliases: release by role; loaded: releases with a ready step; fault: why it could not be reached.

    devices: one sentence for each step that can use a device; () where its metrics are not known.
    """

    url: str
    aliases: Mapping[str, Named]
    loaded: tuple[int, ...]
    differences: tuple[str, ...]
    fault: str = ""
    devices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        base = {"url": self.url, "is_reachable": not self.fault, "fault": self.fault or None, "aliases": _aliases(self.aliases)}
        return {**base, "loaded": list(self.loaded), "differences": list(self.differences), "devices": list(self.devices)}

    def row(self) -> tuple[str, ...]:
        if self.fault:
            return self.url, *["-"] * (len(ROLES) + 1), "not reachable"
        loaded = ", ".join(map(str, self.loaded)) or "none"
        return self.url, *_cells(self.aliases), loaded, "no" if self.differences else "yes"


@dataclass(frozen=True)
class Status:
    """Desired and observed state. moved: how MLflow's aliases differ from the audit log."""

    registry: Mapping[str, Named]
    servers: tuple[ServerStatus, ...]
    moved: str = ""

    @property
    def differences(self) -> tuple[str, ...]:
        registry = (f"registry: {self.moved}",) if self.moved else ()
        return (*registry, *(f"{s.url}: {d}" for s in self.servers for d in ((s.fault,) if s.fault else s.differences)))

    def as_dict(self) -> dict[str, Any]:
        base = {"registry": _aliases(self.registry), "servers": [s.as_dict() for s in self.servers]}
        return {**base, "differences": list(self.differences), "agree": not self.differences}

    def rows(self) -> list[tuple[str, ...]]:
        """As text, one cell per column of COLUMNS; the registry first."""
        return [("registry", *_cells(self.registry), "", ""), *(s.row() for s in self.servers)]


def status_of(urls: Mapping[str, str | None], workspace: Path = Path(".")) -> Status:
    """Query the registry and every server. Unreachable servers are reported as such; faults of the registry are raised.

    urls: gRPC addresses with the address of each server's metrics, if it is known.
    """
    desired, moved = registry_status(workspace)
    return Status(desired, tuple(server_status(url, desired, metrics) for url, metrics in urls.items()), moved)


def registry_status(workspace: Path) -> tuple[dict[str, Named], str]:
    """The release of each role by the audit log, and how MLflow's aliases differ from it. Reads no files of releases."""
    from cmb_models.registry.history.audit import moved_outside
    from cmb_models.registry.history.state import registry_state
    from cmb_models.registry.mlflow.connection import Unreachable
    from cmb_models.registry.mlflow.store import open_registry, require_not_behind

    with open_registry(workspace) as registry:
        logged = registry_state(registry.workspace)
        desired = {alias: Named(n, logged.manifests.get(n, "")) for alias, n in logged.aliases.items() if alias in ROLES}
        try:
            require_not_behind(logged, registry.head())
            return desired, moved_outside(registry, logged) or ""
        except Unreachable as error:
            return desired, f"MLflow is unreachable: {error}"


def server_status(url: str, desired: Mapping[str, Named], metrics_url: str | None = None) -> ServerStatus:
    """Observed state of one server, compared with the desired state."""
    try:
        with Admin(url) as admin:
            observed = admin.observed()
    except InputError as error:
        return ServerStatus(url, {}, (), (), str(error))
    aliases = {
        alias: Named(pin.release, pin.manifest_sha256) for alias, e in ROLES.items() if (pin := observed.pins.get(e)) is not None
    }
    differences, devices = _differences(desired, aliases, observed), _devices(metrics_url)
    return ServerStatus(url, aliases, tuple(sorted(observed.resident)), tuple(differences), devices=devices)


def _devices(metrics_url: str | None) -> tuple[str, ...]:
    try:
        return tuple(step_devices(metrics_url)) if metrics_url else ()
    except OSError:  # the server answers by gRPC: that its metrics do not is no difference
        return ()


def _differences(desired: Mapping[str, Named], aliases: Mapping[str, Named], observed: ObservedState) -> list[str]:
    found = [
        f"{alias} is {aliases.get(alias, 'none')}, expected {desired.get(alias, 'none')}"
        for alias in ROLES
        if desired.get(alias) != aliases.get(alias)
    ]
    unused = sorted(set(observed.resident) - {named.release for named in desired.values()})
    return found + [f"release {n} is still loaded" for n in unused]


def _cells(aliases: Mapping[str, Named]) -> list[str]:
    return [str(aliases.get(alias, "–")) for alias in ROLES]


def _aliases(aliases: Mapping[str, Named]) -> dict[str, Any]:
    return {alias: asdict(aliases[alias]) if alias in aliases else None for alias in ROLES}
