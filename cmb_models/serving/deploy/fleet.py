"""Deployment to servers: write a release's files, load it next to the old ones, test its golden scan, then switch.

The desired state is an argument; the observed state is read from each server before and after. A deployment therefore does nothing
if all is in place, and completes one that was interrupted. Production is not switched until the new release has passed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.release.bundle import NO_KEYS
from cmb_models.serving.deploy.desired import DesiredState, desired_bundle, desired_roles, log_head
from cmb_models.serving.deploy.observed import Admin, ObservedState
from cmb_models.serving.deploy.reconcile import Deployed, reconcile_server
from cmb_models.serving.triton.repository import is_written, remove_versions, write_configs, write_release

logger = logging.getLogger(__name__)

MAX_ROUNDS = 5  # deployments in a row, if roles move meanwhile
OnDeployed = Callable[[Deployed], None]


@dataclass(frozen=True)
class Target:
    """One server and the model repository that it reads, which servers may share. url: HOST:PORT of its gRPC."""

    url: str
    repository: Path


def deploy_aliases(targets: Sequence[Target], workspace: Path = Path("."), on_deployed: OnDeployed | None = None) -> list[Deployed]:
    """Deploy production, previous and challenger of the registry to every server.

    Roles that change during the deployment are followed.

    Args:
        targets: The servers.
        workspace: Workspace with the registry.
        on_deployed: Called with each result.

    Returns:
        One result per server.

    Raises:
        InputError: With all faults, after deployment to all other servers.
    """
    for _ in range(MAX_ROUNDS):
        desired = desired_roles(workspace)
        results = reconcile(desired, targets, on_deployed)
        if log_head(workspace) == desired.head:
            return results
    raise InputError(
        "registry-moved",
        "registry",
        "roles that stay unchanged meanwhile",
        f"moved {MAX_ROUNDS} times",
        "run `cmb server deploy` again",
    )


def deploy_bundle(
    bundle_dir: Path,
    release: int,
    repository: Path,
    server_url: str,
    trusted_keys: Mapping[str, bytes] = NO_KEYS,
    on_deployed: OnDeployed | None = None,
) -> Deployed:
    """Make one server serve a bundle as `release`, the number that clients see.

    repository: the model repository's folder, which the server reads. The replaced release stays loaded, older ones are removed.
    trusted_keys: public keys (PEM by name), one of which must have signed the bundle; {} requires no signature.
    Raises InputError, with the old release still serving, for a bundle that is damaged, not signed as required, cannot be loaded or
    fails its golden scan, and for a release number that is already served with other content.
    """
    desired = desired_bundle(bundle_dir, release, trusted_keys)
    return reconcile(desired, [Target(server_url, Path(repository))], on_deployed)[0]


def reconcile(desired: DesiredState, targets: Sequence[Target], on_deployed: OnDeployed | None = None) -> list[Deployed]:
    """Make every server agree with `desired`, those of one repository together; raises InputError as `deploy_aliases`."""
    groups: dict[Path, list[str]] = {}
    for target in targets:
        groups.setdefault(Path(target.repository).resolve(), []).append(target.url)
    results: list[Deployed] = []
    faults: dict[str, Exception | str] = {**desired.faults}
    for repository, urls in groups.items():
        with locked(repository):
            for result in _group(desired, repository, list(dict.fromkeys(urls)), faults):
                results.append(result)
                if on_deployed:
                    on_deployed(result)
    single = faults.get(targets[0].url) if len(targets) == 1 and len(faults) == 1 else None
    if isinstance(single, Exception):
        raise single
    if faults:
        got = "; ".join(f"{where}: {fault}" for where, fault in faults.items())
        remedy = "correct this and run `cmb server deploy` again"
        raise InputError("server-refused-release", ", ".join(faults), f"servers that take release {desired.release}", got, remedy)
    return results


def _group(desired: DesiredState, repository: Path, urls: Sequence[str], faults: dict[str, Exception | str]) -> Iterator[Deployed]:
    """Deploy to the servers of one repository in turn, then remove unused files. Faults go into `faults`, by server."""
    try:
        for release in desired.releases.values():
            write_release(repository, release.bundle, release.pin.release)
    except InputError as error:
        faults |= dict.fromkeys(urls, error)
        return
    for url in urls:
        try:
            with Admin(url) as admin:
                result = reconcile_server(admin, repository, desired)
        except (InputError, RuntimeError) as error:
            logger.warning("%s: %s", url, error)
            faults[url] = error
            continue
        yield result
        for alias, fault in result.faults.items():
            faults[f"{alias} at {url}"] = fault
    _clear(repository, urls)


def _clear(repository: Path, urls: Sequence[str]) -> None:
    """Remove the files of releases that no server runs, and write the configurations in use.

    Does nothing if a server is unreachable: it may need them, and the next deployment cleans up.
    """
    found: list[ObservedState] = []
    for url in urls:
        try:
            with Admin(url) as admin:
                found.append(admin.observed())
        except InputError as error:
            logger.warning("files of older releases are kept: %s", error)
            return
    remove_versions(repository, set().union(*(observed.pinned for observed in found)))
    pins = found[0].pins
    if all(observed.pins == pins for observed in found) and all(is_written(repository, pin.release) for pin in pins.values()):
        write_configs(repository, pins)


@contextlib.contextmanager
def locked(repository: Path, wait: bool = True) -> Iterator[None]:
    """Hold the repository's deployment lock, which the process releases on exit.

    Raises BlockingIOError if another process holds it and `wait` is false.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with exclusive(repository / ".lock", wait):
        yield
