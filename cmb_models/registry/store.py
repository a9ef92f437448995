"""Where releases are kept: an MLflow store beside the workspace, or the one that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.errors import InputError
from cmb_models.files import replacing_folder
from cmb_models.registry.workspace import find_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "cmb-detector"  # the registered model whose versions are the releases, and the experiment's models
EXPERIMENT = "cmb"
BUNDLE_ARTIFACT = "artifacts/bundle"  # where a logged model keeps the bundle
STATE_DIR = "serving-state"
URI_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Release:
    """One registered model version. tags: its lineage, flat; aliases: those that point to it now."""

    number: int
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseFiles:
    """A release's verified bundle in the local cache."""

    release: int
    bundle_dir: Path
    manifest_sha256: str


@dataclass(frozen=True)
class Registry:
    """An open MLflow store. is_local: the workspace's own SQLite file, whose artifacts lie beside it."""

    workspace: Path
    uri: str
    is_local: bool
    client: MlflowClient

    def experiment_id(self) -> str:
        """The experiment that holds the stages' and releases' runs, made when missing."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        location = (self.workspace / "mlartifacts").as_uri() if self.is_local else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)

    def ensure_model(self) -> None:
        """Create the registered model that all releases are versions of, unless it is there."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def aliases(self) -> dict[str, int]:
        """Release numbers by alias; {} before the first registration."""
        from mlflow.exceptions import MlflowException

        try:
            return {alias: int(n) for alias, n in self.client.get_registered_model(MODEL).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def releases(self) -> list[Release]:
        """All releases, oldest first; [] before the first registration."""
        aliases = self.aliases()
        versions = self.client.search_model_versions(f"name='{MODEL}'", max_results=10_000)
        found = [
            Release(
                int(v.version), v.run_id or "", dict(v.tags), tuple(sorted(a for a, n in aliases.items() if n == int(v.version)))
            )
            for v in versions
        ]
        return sorted(found, key=lambda r: r.number)

    def resolve(self, ref: str) -> Release:
        """The release that a number, `latest` or an alias names. Raises InputError when there is none."""
        releases = self.releases()
        if not releases:
            raise InputError(ref, "a registered release", "an empty registry", "run `cmb register` first")
        if ref == "latest":
            return releases[-1]
        for release in releases:
            if ref == str(release.number) or ref in release.aliases:
                return release
        known = ", ".join([*(str(r.number) for r in releases[-10:]), *(a for r in releases for a in r.aliases)])
        raise InputError(f"release {ref}", f"one of {known} or latest", "none of them", "see `cmb models`")

    def fetch(self, release: Release) -> ReleaseFiles:
        """A release's bundle in the local cache, every file and its signature verified; downloaded unless it is there and whole."""
        from cmb_models.registry.signing import require_signature

        expected = release.tags.get("manifest_sha256", "")
        folder = self.workspace / STATE_DIR / "releases" / f"{release.number}-{expected[:8]}"
        try:
            _require_manifest(folder, release.number, expected)
        except InputError:  # not fetched yet, or damaged since
            self._download(release, folder, expected)
        require_signature(folder, self.workspace)
        return ReleaseFiles(release.number, folder, expected)

    def _download(self, release: Release, folder: Path, expected: str) -> None:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as temporary, replacing_folder(folder) as target:
            source = f"models:/{MODEL}/{release.number}/{BUNDLE_ARTIFACT}"
            try:
                bundle = Path(download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=self.uri))
            except (MlflowException, OSError) as error:
                got = f"none ({' '.join(str(error).split())[:200]})"
                raise InputError(f"release {release.number}", "its files in the artifact store", got, "restore them") from error
            _require_manifest(bundle, release.number, expected)
            for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
                copy = target / file.relative_to(bundle)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())


def _require_manifest(folder: Path, number: int, expected: str) -> None:
    from cmb_models.bundle import verify_manifest  # brings scipy, which asking for aliases does without

    got = verify_manifest(folder)
    if got != expected:
        remedy = "the files were changed after registration: restore them, or register again"
        raise InputError(f"release {number} in {folder}", f"manifest {expected or 'recorded in its tags'}", got, remedy)


@contextmanager
def open_registry(start: Path = Path(".")) -> Iterator[Registry]:
    """Open the registry of the workspace around `start`; the process's MLflow settings are put back afterwards.

    Not to be nested. MLFLOW_TRACKING_URI, when set, wins over the workspace's own mlflow.db.
    """
    workspace = find_workspace(Path(start))
    given = os.environ.get(URI_VARIABLE)
    uri = given or f"sqlite:///{workspace / 'mlflow.db'}"
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(uri)  # writes the environment variable as well
    try:
        yield Registry(workspace, uri, given is None, mlflow.MlflowClient(uri, uri))
    finally:
        mlflow.set_tracking_uri(None)
        if given is not None:
            os.environ[URI_VARIABLE] = given


def quiet_mlflow():
    """Import mlflow without its telemetry, job runner, progress bars and messages about its own housekeeping."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # in case another library imported mlflow first
    return mlflow


def fetch_release(ref: str = "production", workspace: Path = Path(".")) -> ReleaseFiles:
    """The verified bundle of a release (number, `latest` or alias) in `<workspace>/serving-state/releases/<N>-<hash8>/`.

    Only files are downloaded: nothing is unpickled and no code of the release runs. Raises InputError when there is no such
    release or alias, and when a file differs from what was registered.
    """
    with open_registry(workspace) as registry:
        return registry.fetch(registry.resolve(ref))
