"""The desired state of servers: from the registry's roles, or from one bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmb_models.client.contract import DETECTOR
from cmb_models.errors import InputError
from cmb_models.release.bundle import NO_KEYS, Bundle, load_bundle
from cmb_models.serving.triton.repository import ROLES, Pin, pin_of


@dataclass(frozen=True)
class Release:
    """A verified bundle and the pin that identifies it."""

    pin: Pin
    bundle: Bundle


@dataclass(frozen=True)
class DesiredState:
    """The release that each ensemble is to run; other ensembles are unloaded, except those in `untouched`.

    Attributes:
        releases: Release by ensemble.
        untouched: Ensembles left as they are.
        faults: Releases that could not be read, by alias; their ensembles are untouched.
        head: Last entry of the audit log.
        keeps_replaced: The replaced release becomes the previous one, since no registry names it.
    """

    releases: Mapping[str, Release]
    untouched: frozenset[str] = frozenset()
    faults: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    keeps_replaced: bool = False

    @property
    def release(self) -> int:
        """The release number in production."""
        return self.releases[DETECTOR].pin.release


def verified(bundle_dir: Path, release: int, trusted_keys: Mapping[str, bytes] = NO_KEYS) -> Release:
    """A bundle folder as release `release`. Raises InputError for a damaged or unsigned bundle and for a number below 1."""
    bundle = load_bundle(bundle_dir, trusted_keys)
    if release < 1:
        raise InputError("release-number", bundle_dir, "a release number of 1 or more", str(release), "register the bundle first")
    return Release(pin_of(release, bundle), bundle)


def desired_bundle(bundle_dir: Path, release: int, trusted_keys: Mapping[str, bytes]) -> DesiredState:
    """One bundle as production; the challenger is left as it is.

    Args:
        bundle_dir: The bundle.
        release: The number that clients see.
        trusted_keys: Public keys (PEM by name), one of which must have signed it; {} requires no signature.

    Raises:
        InputError: As `load_bundle`, and for a number below 1.
    """
    untouched = frozenset(ROLES.values()) - {DETECTOR}
    return DesiredState({DETECTOR: verified(bundle_dir, release, trusted_keys)}, untouched, keeps_replaced=True)


def desired_roles(workspace: Path) -> DesiredState:
    """Read the desired state: the releases of the registry's roles, with files and signatures verified.

    Returns:
        The releases. A fault of previous or challenger is part of the result, since it must not prevent serving production.

    Raises:
        InputError: If there is no release in production, or its files differ from what was registered.
    """
    from cmb_models.registry.history.state import PRODUCTION, registry_state
    from cmb_models.registry.mlflow.store import open_registry

    releases: dict[str, Release] = {}
    untouched, faults = set(), {}
    with open_registry(workspace) as registry:
        logged = registry_state(registry.workspace)
        for alias, ensemble in ROLES.items():
            if alias != PRODUCTION and alias not in logged.aliases:
                continue
            try:
                files = registry.fetch(registry.resolve(alias))
                releases[ensemble] = verified(files.bundle_dir, files.release)
            except InputError as error:
                if alias == PRODUCTION:
                    raise
                untouched.add(ensemble)
                faults[alias] = str(error)
    return DesiredState(releases, frozenset(untouched), faults, logged.head)


def log_head(workspace: Path) -> str:
    """Number and hash of the last entry of the workspace's audit log."""
    from cmb_models.registry.history.state import registry_state
    from cmb_models.workspace.versioning import find_workspace

    return registry_state(find_workspace(Path(workspace))).head
