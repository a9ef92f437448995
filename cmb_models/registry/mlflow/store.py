"""The MLflow store of the releases: the workspace's mlflow.db, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory
from cmb_models.registry.history.archive import kept_bundle, require_kept
from cmb_models.registry.history.state import ROLES, RegistryState, registry_state
from cmb_models.registry.mlflow.connection import (
    URI_VARIABLE,
    Unreachable,
    quiet_environment,
    quiet_mlflow,
    reaching,
    registry_missing,
)
from cmb_models.workspace.paths import AUDIT_LOG
from cmb_models.workspace.versioning import find_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "cmb-detector"  # the registered model whose versions are the releases, and the experiment's models
EXPERIMENT = "cmb"
BUNDLE_ARTIFACT = "artifacts/bundle"  # path of the bundle in a logged model
STATE_DIR = "serving-state"
SQLITE = "sqlite:///"
HEAD_TAG = "audit_head"  # tag of the registered model: the entry of the audit log that its aliases reflect
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """One registered model version. tags: its flattened lineage; aliases: those that point to it."""

    number: int
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseFiles:
    """A release's verified bundle in the release archive or the local cache."""

    release: int
    bundle_dir: Path
    manifest_sha256: str


@dataclass(frozen=True)
class Registry:
    """An open MLflow store. is_local: the workspace's own SQLite file, with its artifacts next to it."""

    workspace: Path
    uri: str
    is_local: bool

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; the first access imports mlflow, which takes seconds."""
        mlflow = quiet_mlflow()
        mlflow.set_tracking_uri(self.uri)
        with reaching(self.uri):
            return mlflow.MlflowClient(self.uri, self.uri)

    def experiment_id(self) -> str:
        """The experiment that holds the stages' and releases' runs, created if missing."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return experiment.experiment_id
        location = (self.workspace / "mlartifacts").as_uri() if self.is_local else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)

    def ensure_model(self) -> None:
        """Create the registered model that all releases are versions of, unless it exists."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def aliases(self) -> dict[str, int]:
        """Release numbers by alias as MLflow has them; {} before the first registration."""
        model = self._model()
        return {alias: int(n) for alias, n in model.aliases.items()} if model else {}

    def head(self) -> str:
        """The last entry of the audit log that the aliases reflect, as `RegistryState.head`; "" before the first."""
        model = self._model()
        return model.tags.get(HEAD_TAG, "") if model else ""

    def releases(self) -> list[Release]:
        """All releases, oldest first; [] before the first registration."""
        aliases = self.aliases()
        with reaching(self.uri):
            versions = self.client.search_model_versions(f"name='{MODEL}'", max_results=10_000)
        found = [
            Release(
                int(v.version), v.run_id or "", dict(v.tags), tuple(sorted(a for a, n in aliases.items() if n == int(v.version)))
            )
            for v in versions
        ]
        return sorted(found, key=lambda release: release.number)

    def known_releases(self) -> list[Release]:
        """Those and the ones that only the audit log names: deleted from MLflow, or of a registry on another machine."""
        logged, found = registry_state(self.workspace), self.releases()
        numbers = {release.number for release in found}
        roles = {n: tuple(sorted(alias for alias, of in logged.aliases.items() if of == n)) for n in logged.manifests}
        lost = [Release(n, "", {"manifest_sha256": m}, roles[n]) for n, m in logged.manifests.items() if n not in numbers]
        return sorted([*found, *lost], key=lambda release: release.number)

    def require_history(self) -> None:
        """Raise InputError for a registry that never followed the audit log, which names releases: it is not theirs."""
        if registry_state(self.workspace).n and not self.head() and not self.releases():
            raise registry_missing(self.uri, AUDIT_LOG)

    def move(self, goal: Mapping[str, int | None], head: str) -> None:
        """Point each alias of `goal` to its release (None or a deleted release: remove it) and record the log's last entry.

        Aliases are set one by one, production last, and the entry after all of them, so that `cmb release repair` detects and
        completes a move that was interrupted.
        """
        registered = {release.number for release in self.releases()}
        goal = {alias: n if n in registered else None for alias, n in goal.items()}
        existing = self.aliases()
        with reaching(self.uri):
            for alias in sorted(goal, key=lambda a: a == "production"):
                if goal[alias] is not None:
                    self.client.set_registered_model_alias(MODEL, alias, str(goal[alias]))
                elif alias in existing:
                    self.client.delete_registered_model_alias(MODEL, alias)
            self.client.set_registered_model_tag(MODEL, HEAD_TAG, head)

    def _model(self):
        """MLflow's registered model; None before the first registration."""
        from mlflow.exceptions import MlflowException

        with reaching(self.uri):
            try:
                return self.client.get_registered_model(MODEL)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def resolve(self, ref: str) -> Release:
        """The release that a number, `latest` or an alias names. Raises InputError if there is none.

        The roles production, previous and challenger come from the audit log, even if MLflow is unreachable or the release was
        deleted from it: an alias that was moved outside `cmb` is not followed.
        """
        logged = registry_state(self.workspace)
        if ref in ROLES and ref in logged.aliases:
            return self._logged(logged, logged.aliases[ref])
        releases = self.releases()
        if not releases:
            self.require_history()
            raise InputError(
                "release-unknown", ref, "a registered release", "an empty registry", "run `cmb release register` first"
            )
        if ref == "latest":
            return releases[-1]
        for release in releases:
            if ref == str(release.number) or (ref in release.aliases and ref not in ROLES):
                require_same(release, logged)
                return release
        if ref.isdecimal() and int(ref) in logged.manifests:
            return self._logged(logged, int(ref))
        known = ", ".join([*(str(r.number) for r in releases[-10:]), *sorted(logged.aliases)])
        stray = any(ref in r.aliases for r in releases)
        got = f"an alias in MLflow that is not in {AUDIT_LOG}" if stray else "none of them"
        raise InputError("release-unknown", f"release {ref}", f"one of {known} or latest", got, "see `cmb release list`")

    def _logged(self, logged: RegistryState, number: int) -> Release:
        """A release that the log names, with the tags that MLflow still has."""
        try:
            require_not_behind(logged, self.head())
            releases = self.releases()
        except Unreachable as error:
            logger.warning("%s; using %s and the archived releases", error, AUDIT_LOG)
            releases = []
        known = next((r for r in releases if r.number == number), None)
        if known is None:
            return Release(number, "", {"manifest_sha256": logged.manifests.get(number, "")}, ())
        require_same(known, logged)
        return known

    def fetch(self, release: Release) -> ReleaseFiles:
        """A release's bundle, files and signature verified: from the archive, the local cache, or downloaded."""
        from cmb_models.release.keys import trusted_keys
        from cmb_models.release.signing import require_signature

        expected = release.tags.get("manifest_sha256", "")
        folder = self._verified(release, expected)
        require_signature(folder, trusted_keys(self.workspace))
        return ReleaseFiles(release.number, folder, expected)

    def _verified(self, release: Release, expected: str) -> Path:
        kept = kept_bundle(self.workspace, release.number, expected)
        if kept.is_dir():
            try:
                require_kept(kept, expected)
                return kept
            except InputError as error:
                logger.warning("%s", error)
        folder = self.workspace / STATE_DIR / "releases" / f"{release.number}-{expected[:8]}"
        try:
            _require_manifest(folder, release.number, expected)
        except InputError:  # not fetched yet, or damaged since
            self._download(release, folder, expected)
        return folder

    def _download(self, release: Release, folder: Path, expected: str) -> None:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as temporary, atomic_directory(folder) as target:
            source = f"models:/{MODEL}/{release.number}/{BUNDLE_ARTIFACT}"
            try:
                bundle = Path(download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=self.uri))
            except (MlflowException, OSError) as error:
                self.require_history()
                got = f"none ({' '.join(str(error).split())[:200]})"
                raise InputError(
                    "artifact-missing", f"release {release.number}", "its files in the artifact store", got, "restore them"
                ) from error
            _require_manifest(bundle, release.number, expected)
            for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
                copy = target / file.relative_to(bundle)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())


def _require_manifest(folder: Path, number: int, expected: str) -> None:
    from cmb_models.release.bundle import verify_manifest  # imports scipy, which reading aliases does without

    got = verify_manifest(folder)
    if got != expected:
        remedy = "the files were changed after registration: restore them, or register again"
        raise InputError(
            "release-changed", f"release {number} in {folder}", f"manifest {expected or 'recorded in its tags'}", got, remedy
        )


def require_same(release: Release, logged: RegistryState) -> None:
    """Reject a release whose manifest tag differs from the audit log."""
    known, tag = logged.manifests.get(release.number, ""), release.tags.get("manifest_sha256", "")
    if known and tag != known:
        got = f"{tag[:12] or 'none'} in its tags"
        raise InputError(
            "release-changed", f"release {release.number}", f"manifest {known[:12]} as in {AUDIT_LOG}", got, "restore the tag"
        )


def require_not_behind(logged: RegistryState, head: str) -> None:
    """Reject a log that lacks entries which the aliases reflect: truncated, or behind another clone. head: `Registry.head`."""
    n = int(head.split()[0]) if head else 0
    if n > logged.n:
        remedy = f"bring {AUDIT_LOG} up to date (git pull, or restore it from a backup)"
        raise InputError("log-behind", AUDIT_LOG, f"the {n} entries that the registry knows of", f"{logged.n}", remedy)


@contextmanager
def open_registry(start: Path = Path(".")) -> Iterator[Registry]:
    """Open the registry of the workspace around `start`; the process's MLflow settings are restored afterwards.

    Not to be nested. MLFLOW_TRACKING_URI, if set, takes precedence over the workspace's mlflow.db. mlflow is imported on first use.
    """
    workspace = find_workspace(Path(start))
    configured_uri = os.environ.get(URI_VARIABLE)
    uri = configured_uri or f"{SQLITE}{workspace / 'mlflow.db'}"
    quiet_environment()
    if "mlflow" in sys.modules:
        quiet_mlflow().set_tracking_uri(uri)
    os.environ[URI_VARIABLE] = uri  # read by mlflow on import
    try:
        yield Registry(workspace, uri, configured_uri is None)
    finally:
        if "mlflow" in sys.modules:
            sys.modules["mlflow"].set_tracking_uri(None)
        os.environ.pop(URI_VARIABLE, None)
        if configured_uri is not None:
            os.environ[URI_VARIABLE] = configured_uri


def fetch_release(ref: str = "production", workspace: Path = Path(".")) -> ReleaseFiles:
    """The verified bundle of a release (number, `latest` or role): the archived copy, else one in `serving-state/releases/`.

    Only files are downloaded: nothing is unpickled and no code of the release runs.

    Raises:
        InputError: If there is no such release or alias, or a file differs from what was registered.
    """
    with open_registry(workspace) as registry:
        return registry.fetch(registry.resolve(ref))
