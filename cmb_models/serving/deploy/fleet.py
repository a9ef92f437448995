"""Make servers agree with the registry: write a release's files, load it beside the old ones, try its golden scan, then switch.

What is wanted is an argument; what is there is asked of each server every time, and asked again at the end. So a deployment does
nothing where all is in place, and one that was killed at any point is finished by the next. The release that answers is untouched
until the new one has passed.
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

MOST_ROUNDS = 5  # deployments in a row, when somebody moves the aliases meanwhile
Done = Callable[[Deployed], None]


@dataclass(frozen=True)
class Target:
    """One server and the model repository that it reads, which others may read too. url: HOST:PORT of its gRPC."""

    url: str
    repository: Path


def deploy_aliases(targets: Sequence[Target], workspace: Path = Path("."), done: Done | None = None) -> list[Deployed]:
    """Make every server serve what the registry's aliases name: production, previous and challenger; one result a server.

    done: called with each result as it comes. A server that fails does not keep the others from being served: InputError with all
    the faults comes at the end. Aliases that are moved meanwhile are followed.
    """
    for _ in range(MOST_ROUNDS):
        wanted = desired_roles(workspace)
        results = reconcile(wanted, targets, done)
        if log_head(workspace) == wanted.head:
            return results
    raise InputError(
        "registry-moved", "registry", "aliases that stay for a while", f"moved {MOST_ROUNDS} times", "run `cmb server deploy` again"
    )


def deploy_bundle(
    bundle_dir: Path,
    release: int,
    repository: Path,
    server_url: str,
    trusted_keys: Mapping[str, bytes] = NO_KEYS,
    done: Done | None = None,
) -> Deployed:
    """Make one server serve a bundle as `release`, the number that clients see.

    repository: the model repository's folder, which the server reads too. The release that answered before stays loaded, older
    ones are removed. trusted_keys: public keys (PEM by name), one of which must have signed the bundle; {} requires no signature.
    Raises InputError, with the old release still serving, for a bundle that is damaged, not signed as required, cannot be loaded or
    does not give its golden answer, and for a release number that is served already with another content.
    """
    wanted = desired_bundle(bundle_dir, release, trusted_keys)
    return reconcile(wanted, [Target(server_url, Path(repository))], done)[0]


def reconcile(wanted: DesiredState, targets: Sequence[Target], done: Done | None = None) -> list[Deployed]:
    """Make every server agree with `wanted`, those of one repository together; raises InputError at the end as `deploy_aliases`."""
    groups: dict[Path, list[str]] = {}
    for target in targets:
        groups.setdefault(Path(target.repository).resolve(), []).append(target.url)
    results: list[Deployed] = []
    faults: dict[str, Exception | str] = {**wanted.faults}
    for repository, urls in groups.items():
        with locked(repository):
            for result in _group(wanted, repository, list(dict.fromkeys(urls)), faults):
                results.append(result)
                if done:
                    done(result)
    only = faults.get(targets[0].url) if len(targets) == 1 and len(faults) == 1 else None
    if isinstance(only, Exception):
        raise only
    if faults:
        got = "; ".join(f"{where}: {fault}" for where, fault in faults.items())
        remedy = "mend it and run `cmb server deploy` again"
        raise InputError("server-refused-release", ", ".join(faults), f"servers that take release {wanted.release}", got, remedy)
    return results


def _group(wanted: DesiredState, repository: Path, urls: Sequence[str], faults: dict[str, Exception | str]) -> Iterator[Deployed]:
    """Serve the servers of one repository in turn, then clear it of what none of them needs. Faults go into `faults`, by server."""
    try:
        for release in wanted.releases.values():
            write_release(repository, release.bundle, release.pin.release)
    except InputError as error:
        faults |= dict.fromkeys(urls, error)
        return
    for url in urls:
        try:
            with Admin(url) as admin:
                result = reconcile_server(admin, repository, wanted)
        except (InputError, RuntimeError) as error:
            logger.warning("%s: %s", url, error)
            faults[url] = error
            continue
        yield result
        for alias, fault in result.faults.items():
            faults[f"{alias} at {url}"] = fault
    _clear(repository, urls)


def _clear(repository: Path, urls: Sequence[str]) -> None:
    """Remove the files of releases that no server runs, and write the configurations as they run them.

    Where one cannot be asked, all stays as it is: it may need them, and the next deployment clears up.
    """
    found: list[ObservedState] = []
    for url in urls:
        try:
            with Admin(url) as admin:
                found.append(admin.observed())
        except InputError as error:
            logger.warning("files of older releases stay: %s", error)
            return
    remove_versions(repository, set().union(*(observed.pinned for observed in found)))
    pins = found[0].pins
    if all(observed.pins == pins for observed in found) and all(is_written(repository, pin.release) for pin in pins.values()):
        write_configs(repository, pins)


@contextlib.contextmanager
def locked(repository: Path, wait: bool = True) -> Iterator[None]:
    """One deployment at a time in a repository; the lock goes with the process that holds it.

    Raises BlockingIOError where another holds it and `wait` is false.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with exclusive(repository / ".lock", wait):
        yield
