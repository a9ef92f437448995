"""Make one server agree: load, try, switch, keep the one before, let go of what is older, and ask it whether it is so.

Order is what loses no request: an ensemble is switched by one `load` with its new pins while both releases are resident, and
a version goes only when no ensemble runs it, since an ensemble that pins a removed version is unloaded without a word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmb_models.client.contract import DETECTOR, STEPS
from cmb_models.errors import InputError
from cmb_models.serving.deploy.desired import DesiredState, Release
from cmb_models.serving.deploy.golden import try_golden
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
    """What was done at one server. previous: the release that stays loaded for a rollback; did: in words, nothing when empty.

    faults: what went wrong with previous and challenger while production is served, by alias.
    """

    server_url: str
    pins: Mapping[str, Pin]
    did: tuple[str, ...] = ()
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
        return bool(self.did)

    def __str__(self) -> str:
        if self.changed:
            return f"{self.server_url}: {'; '.join(self.did)}"
        beside = [f"{ALIASES[e]} {pin.release}" for e, pin in self.pins.items() if e in ALIASES and e != DETECTOR]
        also = f", with {' and '.join(beside)} loaded" if beside else ""
        return f"{self.server_url}: serves {self.pins[DETECTOR]} already{also}, nothing to do"


def reconcile_server(admin: Admin, repository: Path, wanted: DesiredState) -> Deployed:
    """Make one server agree with `wanted`, whose files are written. Raises InputError or RuntimeError when production cannot be
    switched, with what answered before still answering."""
    observed = admin.observed()
    _require_same_content(observed, wanted)
    did: list[str] = []
    faults: dict[str, Exception] = {}
    if PROBE in observed.pins:  # of a deployment that was killed
        admin.unload(PROBE)
    replaced = observed.pins.get(DETECTOR)
    for ensemble, release in wanted.releases.items():
        try:
            keep = replaced if wanted.keeps_replaced and ensemble == DETECTOR else None
            did += _bring(admin, repository, ensemble, release, keep)
        except (InputError, RuntimeError) as error:
            _withdraw(admin, repository)
            if ensemble == DETECTOR:
                raise
            faults[ALIASES[ensemble]] = error
    for ensemble in ROLES.values():
        if ensemble not in wanted.releases and ensemble not in wanted.untouched and ensemble in observed.pins:
            admin.unload(ensemble)
            did.append(f"{ALIASES[ensemble]} {observed.pins[ensemble].release} unloaded")
    did += _settle(admin, repository)
    sound = {e: r for e, r in wanted.releases.items() if ALIASES[e] not in faults}
    did += _confirm(admin, repository, sound)
    return Deployed(admin.url, {e: p for e, p in admin.observed().pins.items() if e != PROBE}, tuple(did), faults)


def _require_same_content(observed: ObservedState, wanted: DesiredState) -> None:
    """Refuse a server that has a wanted release's number with another content: it belongs to another registry."""
    for release in wanted.releases.values():
        for pin in observed.pins.values():
            if pin.release == release.pin.release and pin.manifest_sha256 != release.pin.manifest_sha256:
                got = f"manifest {release.pin.manifest_sha256[:12]} while the server has {pin.manifest_sha256[:12]}"
                remedy = "use this server's own registry or another --state-dir"
                raise InputError("release-changed", f"release {pin.release}", "one content for ever", got, remedy)


def _bring(admin: Admin, repository: Path, ensemble: str, release: Release, replaced: Pin | None) -> list[str]:
    """Have an ensemble run a release, after its golden scan; what was done, in words. replaced: what is to be the previous one."""
    observed, number = admin.observed(), release.pin.release
    uses_phase = release.bundle.config.preprocess.phase
    resident = observed.has(number, _models(uses_phase))
    before = observed.pins.get(ensemble)
    if before == release.pin and resident:
        return []
    tried = resident and release.pin in observed.pins.values()
    if not tried:
        _load_steps(admin, repository, {*(r for r in observed.pinned if is_written(repository, r)), number})
    if not tried or ensemble == DETECTOR:
        _try_out(admin, repository, release)
    kept = []
    if replaced and replaced.release != number and is_written(repository, replaced.release):
        _load(admin, repository, PREVIOUS, replaced)  # before the switch: killed after it, nobody would know what was replaced
        kept = [_told(PREVIOUS, replaced, None)]
    _load(admin, repository, ensemble, release.pin)
    return [_told(ensemble, release.pin, before), *kept]


def _told(ensemble: str, pin: Pin, before: Pin | None) -> str:
    if ensemble == PREVIOUS:
        return f"release {pin.release} stays loaded for a rollback"
    if ensemble != DETECTOR:
        return f"{ALIASES[ensemble]} is {pin} after its golden scan passed"
    old = f" from {before.release}" if before and before.release != pin.release else ""
    return f"switched to {pin}{old} after its golden scan passed"


def _try_out(admin: Admin, repository: Path, release: Release) -> None:
    """Send the golden scan through an ensemble of its own that is pinned to the new release; no client of the detector sees it."""
    _load(admin, repository, PROBE, release.pin)
    try:
        try_golden(admin.url, PROBE, release.bundle, release.pin.release)
    finally:
        admin.unload(PROBE)


def _load(admin: Admin, repository: Path, ensemble: str, pin: Pin) -> None:
    write_ensemble(repository, ensemble, pin.release)
    admin.load(pinned_config(ensemble, pin, settings_of(repository, pin.release).preprocess.phase))


def _withdraw(admin: Admin, repository: Path) -> None:
    """Take out again what no ensemble runs. Trouble here is logged only: the next deployment starts from what it finds."""
    try:
        _settle(admin, repository)
    except InputError as error:
        logger.warning("%s: could not withdraw the failed release: %s", admin.url, error)


def _models(uses_phase: bool) -> list[str]:
    return [model_of(step, uses_phase) for step in STEPS]


def _load_steps(admin: Admin, repository: Path, versions: set[int]) -> None:
    """Make `versions` resident, and nothing else: a model that none of them runs (step.model_of) goes."""
    configs = step_configs(repository, versions)
    for config in configs.values():
        write_config(repository, config)
        admin.load(config)
    for model in MODELS:
        if model not in configs:
            admin.unload(model)


def revive(admin: Admin, repository: Path, steps: Iterable[tuple[str, int]]) -> None:
    """Start steps (model and release) anew, in whatever state they are; the others run on, and no ensemble is unloaded."""
    for model, release in steps:
        touch_step(repository, model, release)
    _load_steps(admin, repository, {release for release in admin.observed().pinned if is_written(repository, release)})


def _settle(admin: Admin, repository: Path) -> list[str]:
    """Let go of every version that no ensemble runs, once its last request is answered; what was done, in words."""
    observed = admin.observed()
    stray = sorted(set(observed.resident) - observed.pinned)
    if not stray:
        return []
    if observed.pinned and not all(is_written(repository, release) for release in observed.pinned):
        return []  # what runs has lost its files: it goes on as it is
    if observed.pinned:
        _load_steps(admin, repository, observed.pinned)
    else:
        for model in (*ENSEMBLES, *MODELS):
            admin.unload(model)
    admin.drain()
    return [f"release {', '.join(map(str, stray))} removed"]


def _confirm(admin: Admin, repository: Path, releases: Mapping[str, Release]) -> list[str]:
    """Ask the server what it runs and for each golden answer. Steps that have died are started anew; what was done, in words."""
    did = []
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
            try_golden(admin.url, ensemble, release.bundle, release.pin.release)
        except RuntimeError as error:
            logger.warning("%s: %s; its steps are started anew", admin.url, error)
            revive(admin, repository, {(model, release.pin.release) for model in MODELS})
            try_golden(admin.url, ensemble, release.bundle, release.pin.release)
            did.append(f"steps of release {release.pin.release} started anew")
    return did
