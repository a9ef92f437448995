"""Reconciliation of one server: load, test, switch, keep the previous release, unload older ones, and verify.

The order ensures that no request is lost: an ensemble is switched by one `load` with its new pins while both releases are
resident, and a version is unloaded only when no ensemble runs it, since Triton silently unloads an ensemble that pins a removed
version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmb_models.client.contract import DETECTOR, STEPS
from cmb_models.errors import InputError
from cmb_models.serving.deploy.desired import DesiredState, Release
from cmb_models.serving.deploy.golden import run_golden
from cmb_models.serving.deploy.observed import Admin, ObservedState
from cmb_models.serving.triton.repository import (
    ENSEMBLES,
    PREVIOUS,
    PROBE,
    ROLES,
    Pin,
    is_written,
    pinned_config,
    settings_of,
    step_configs,
    touch_step,
    write_config,
    write_ensemble,
)
from cmb_models.serving.triton.step import MODELS, model_of

logger = logging.getLogger(__name__)
ALIASES = {ensemble: alias for alias, ensemble in ROLES.items()}


@dataclass(frozen=True)
class Deployed:
    """The result of a deployment to one server.

    Attributes:
        server_url: Address of the server.
        pins: Pin of each ensemble.
        changes: What was done, as text; () if nothing.
        faults: Of previous and challenger while production is served, by alias.
    """

    server_url: str
    pins: Mapping[str, Pin]
    changes: tuple[str, ...] = ()
    faults: Mapping[str, Exception] = field(default_factory=dict)

    @property
    def release(self) -> int:
        return self.pins[DETECTOR].release

    @property
    def manifest_sha256(self) -> str:
        return self.pins[DETECTOR].manifest_sha256

    @property
    def previous(self) -> int | None:
        return self.pins[PREVIOUS].release if PREVIOUS in self.pins else None

    @property
    def changed(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        if self.changed:
            return f"{self.server_url}: {'; '.join(self.changes)}"
        others = [f"{ALIASES[e]} {pin.release}" for e, pin in self.pins.items() if e in ALIASES and e != DETECTOR]
        suffix = f", with {' and '.join(others)} loaded" if others else ""
        return f"{self.server_url}: already serves {self.pins[DETECTOR]}{suffix}, nothing to do"


def reconcile_server(admin: Admin, repository: Path, desired: DesiredState) -> Deployed:
    """Bring one server to the desired state, whose files are already written.

    Raises:
        InputError: If production cannot be switched; the old release still serves.
        RuntimeError: The same, if the server fails.
    """
    observed = admin.observed()
    _require_same_content(observed, desired)
    changes: list[str] = []
    faults: dict[str, Exception] = {}
    if PROBE in observed.pins:  # left by an interrupted deployment
        admin.unload(PROBE)
    replaced = observed.pins.get(DETECTOR)
    for ensemble, release in desired.releases.items():
        try:
            keep = replaced if desired.keeps_replaced and ensemble == DETECTOR else None
            changes += _switch(admin, repository, ensemble, release, keep)
        except (InputError, RuntimeError) as error:
            _withdraw(admin, repository)
            if ensemble == DETECTOR:
                raise
            faults[ALIASES[ensemble]] = error
    for ensemble in ROLES.values():
        if ensemble not in desired.releases and ensemble not in desired.untouched and ensemble in observed.pins:
            admin.unload(ensemble)
            changes.append(f"{ALIASES[ensemble]} {observed.pins[ensemble].release} unloaded")
    changes += _unload_unused(admin, repository)
    deployed = {e: r for e, r in desired.releases.items() if ALIASES[e] not in faults}
    changes += _confirm(admin, repository, deployed)
    return Deployed(admin.url, {e: p for e, p in admin.observed().pins.items() if e != PROBE}, tuple(changes), faults)


def _require_same_content(observed: ObservedState, desired: DesiredState) -> None:
    """Reject a server with other content under a desired release's number: it belongs to another registry."""
    for release in desired.releases.values():
        for pin in observed.pins.values():
            if pin.release == release.pin.release and pin.manifest_sha256 != release.pin.manifest_sha256:
                got = f"manifest {release.pin.manifest_sha256[:12]} while the server has {pin.manifest_sha256[:12]}"
                remedy = "use this server's registry or another --state-dir"
                raise InputError("release-changed", f"release {pin.release}", "the same content as on the server", got, remedy)


def _switch(admin: Admin, repository: Path, ensemble: str, release: Release, replaced: Pin | None) -> list[str]:
    """Switch an ensemble to a release that passes its golden scan; return what was done. replaced: the future previous release."""
    observed, number = admin.observed(), release.pin.release
    uses_phase = release.bundle.config.preprocess.phase
    resident = observed.has(number, _models(uses_phase))
    before = observed.pins.get(ensemble)
    if before == release.pin and resident:
        return []
    tested = resident and release.pin in observed.pins.values()
    if not tested:
        _load_steps(admin, repository, {*(r for r in observed.pinned if is_written(repository, r)), number})
    if not tested or ensemble == DETECTOR:
        _test_golden(admin, repository, release)
    previous = []
    if replaced and replaced.release != number and is_written(repository, replaced.release):
        _load(admin, repository, PREVIOUS, replaced)  # first: after an interrupted switch the replaced release is unknown
        previous = [_change(PREVIOUS, replaced, None)]
    _load(admin, repository, ensemble, release.pin)
    return [_change(ensemble, release.pin, before), *previous]


def _change(ensemble: str, pin: Pin, before: Pin | None) -> str:
    if ensemble == PREVIOUS:
        return f"release {pin.release} stays loaded for a rollback"
    if ensemble != DETECTOR:
        return f"{ALIASES[ensemble]} is {pin} after its golden scan passed"
    old = f" from {before.release}" if before and before.release != pin.release else ""
    return f"switched to {pin}{old} after its golden scan passed"


def _test_golden(admin: Admin, repository: Path, release: Release) -> None:
    """Send the golden scan through the probe ensemble pinned to the new release, invisible to clients."""
    _load(admin, repository, PROBE, release.pin)
    try:
        run_golden(admin.url, PROBE, release.bundle, release.pin.release)
    finally:
        admin.unload(PROBE)


def _load(admin: Admin, repository: Path, ensemble: str, pin: Pin) -> None:
    write_ensemble(repository, ensemble, pin.release)
    admin.load(pinned_config(ensemble, pin, settings_of(repository, pin.release).preprocess.phase))


def _withdraw(admin: Admin, repository: Path) -> None:
    """Unload what no ensemble runs after a failure. Errors are only logged: the next deployment retries."""
    try:
        _unload_unused(admin, repository)
    except InputError as error:
        logger.warning("%s: could not withdraw the failed release: %s", admin.url, error)


def _models(uses_phase: bool) -> list[str]:
    return [model_of(step, uses_phase) for step in STEPS]


def _load_steps(admin: Admin, repository: Path, versions: set[int]) -> None:
    """Make exactly `versions` resident; models that none of them runs (step.model_of) are unloaded."""
    configs = step_configs(repository, versions)
    for config in configs.values():
        write_config(repository, config)
        admin.load(config)
    for model in MODELS:
        if model not in configs:
            admin.unload(model)


def revive(admin: Admin, repository: Path, steps: Iterable[tuple[str, int]]) -> None:
    """Restart steps (model and release); the others keep running, and no ensemble is unloaded."""
    for model, release in steps:
        touch_step(repository, model, release)
    _load_steps(admin, repository, {release for release in admin.observed().pinned if is_written(repository, release)})


def _unload_unused(admin: Admin, repository: Path) -> list[str]:
    """Unload every version that no ensemble runs, once its last request is answered; return what was done."""
    observed = admin.observed()
    unused = sorted(set(observed.resident) - observed.pinned)
    if not unused:
        return []
    if observed.pinned and not all(is_written(repository, release) for release in observed.pinned):
        return []  # a running release has lost its files: leave it running
    if observed.pinned:
        _load_steps(admin, repository, observed.pinned)
    else:
        for model in (*ENSEMBLES, *MODELS):
            admin.unload(model)
    admin.drain()
    return [f"release {', '.join(map(str, unused))} removed"]


def _confirm(admin: Admin, repository: Path, releases: Mapping[str, Release]) -> list[str]:
    """Verify pins and golden answers on the server. Dead steps are restarted; return what was done."""
    changes = []
    observed = admin.observed()
    for ensemble, release in releases.items():
        if observed.pins.get(ensemble) != release.pin:
            got = str(observed.pins.get(ensemble) or "none")
            raise InputError(
                "server-refused-release",
                admin.url,
                f"{ensemble} at {release.pin}",
                got,
                "is another deployment at work? run `cmb server deploy` again",
            )
        try:
            run_golden(admin.url, ensemble, release.bundle, release.pin.release)
        except RuntimeError as error:
            logger.warning("%s: %s; its steps are restarted", admin.url, error)
            revive(admin, repository, {(model, release.pin.release) for model in MODELS})
            run_golden(admin.url, ensemble, release.bundle, release.pin.release)
            changes.append(f"steps of release {release.pin.release} restarted")
    return changes
