"""The lineage of releases: read without downloading entire bundles, and verified against git and DVC before a promotion.

lineage.json is trusted only if its hash is in the manifest that the registry's tag names. Both files are cached in the workspace,
so that `cmb release lineage` searches hundreds of releases at once, and are verified on every read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import yaml

from cmb_models.errors import InputError
from cmb_models.files import atomic_directory, sha256_of
from cmb_models.hash_chain import canonical_sha256
from cmb_models.registry.history.archive import kept_bundle
from cmb_models.release.bundle import LINEAGE_FILE, MANIFEST_FILE
from cmb_models.workspace.dvc_cache import cached_out, datasets_at
from cmb_models.workspace.paths import DVC_LOCK, PARAMS, SPLIT
from cmb_models.workspace.versioning import LOCKS, file_at, git_lines, has_commit

if TYPE_CHECKING:
    from cmb_models.registry.mlflow.store import Registry, Release

FILES_AT_COMMIT = {"dvc_lock_sha256": DVC_LOCK, "params_sha256": PARAMS, **LOCKS}
LINEAGE_CACHE, RELEASE_CACHE = "serving-state/lineage", "serving-state/releases"  # below the workspace
DOWNLOADS = 8  # in parallel, from a remote store


def read_lineages(registry: Registry, releases: Iterable[Release]) -> dict[int, dict[str, Any] | InputError]:
    """The verified lineage of each release by number; an InputError for one that cannot be read."""
    releases = list(releases)
    found: dict[int, dict[str, Any] | InputError] = {r.number: _cached(registry.workspace, r) or {} for r in releases}
    missing = [r for r in releases if not found[r.number]]
    with ThreadPoolExecutor(1 if registry.is_local else DOWNLOADS) as pool:
        found |= {r.number: got for r, got in zip(missing, pool.map(lambda r: _fetch(registry, r), missing), strict=True)}
    return found


def read_lineage(registry: Registry, release: Release) -> dict[str, Any]:
    """The verified lineage of one release. Raises InputError if its files are missing or changed."""
    got = read_lineages(registry, [release])[release.number]
    if isinstance(got, InputError):
        raise got
    return got


def cache_lineage(workspace: Path, number: int, bundle: Path, manifest_sha256: str) -> None:
    """Cache the files of a release's bundle that read_lineages needs."""
    with atomic_directory(workspace / LINEAGE_CACHE / f"{number}-{manifest_sha256[:8]}") as folder:
        for name in (MANIFEST_FILE, LINEAGE_FILE):
            (folder / name).write_bytes((bundle / name).read_bytes())


def _cached(workspace: Path, release: Release) -> dict[str, Any] | None:
    expected = release.tags.get("manifest_sha256", "")
    places = [workspace / cache / f"{release.number}-{expected[:8]}" for cache in (LINEAGE_CACHE, RELEASE_CACHE)]
    for folder in (*places, kept_bundle(workspace, release.number, expected)):
        lineage = _verified(folder, expected)
        if lineage is not None:
            return lineage
    return None


def _verified(folder: Path, manifest_sha256: str) -> dict[str, Any] | None:
    """lineage.json of a folder if the manifest with this hash lists it; None otherwise."""
    try:
        manifest, lineage = ((folder / name).read_bytes() for name in (MANIFEST_FILE, LINEAGE_FILE))
        if hashlib.sha256(manifest).hexdigest() != manifest_sha256:
            return None
        listed = json.loads(manifest)["files"][LINEAGE_FILE]
        return json.loads(lineage) if hashlib.sha256(lineage).hexdigest() == listed else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch(registry: Registry, release: Release) -> dict[str, Any] | InputError:
    """Copy a release's two files from the artifact store into the cache."""
    from mlflow.exceptions import MlflowException

    from cmb_models.registry.mlflow.store import BUNDLE_ARTIFACT, MODEL

    expected = release.tags.get("manifest_sha256", "")
    name, remedy = f"release {release.number}", "restore its files; without them its origin is unknown"
    try:
        root = registry.client.get_model_version_download_uri(MODEL, str(release.number))
        with tempfile.TemporaryDirectory() as scratch:
            folder = _local_folder(f"{root}/{BUNDLE_ARTIFACT}") or _download(f"{root}/{BUNDLE_ARTIFACT}", scratch, registry.uri)
            lineage = _verified(folder, expected)
            if lineage is None:
                return InputError("release-changed", name, f"its {LINEAGE_FILE} as registered", "a missing or changed one", remedy)
            cache_lineage(registry.workspace, release.number, folder, expected)
            return lineage
    except (MlflowException, OSError) as error:
        try:
            registry.require_history()
        except InputError as missing:
            return missing
        return InputError("artifact-missing", name, "its files in the artifact store", " ".join(str(error).split())[:200], remedy)


def _local_folder(uri: str) -> Path | None:
    parts = urlparse(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _download(uri: str, scratch: str, tracking_uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    for name in (MANIFEST_FILE, LINEAGE_FILE):
        download_artifacts(artifact_uri=f"{uri}/{name}", dst_path=scratch, tracking_uri=tracking_uri)
    return Path(scratch)


def require_lineage(workspace: Path, bundle_dir: Path, tags: Mapping[str, str] | None = None) -> None:
    """Reject a release whose lineage git or DVC contradict.

    Args:
        workspace: The workspace.
        bundle_dir: The release's verified bundle.
        tags: The registry's tags, which must agree with the lineage.

    Raises:
        InputError: Listing all differences: a commit that is missing or on no branch, other file contents at that commit, datasets
            that differ from its .dvc files, a split that differs from its dvc.lock.
    """
    lineage = json.loads((Path(bundle_dir) / LINEAGE_FILE).read_text(encoding="utf-8"))
    faults = lineage_faults(workspace, lineage)
    faults += [
        f"the registry's tag {key} is {tags[key]}, its lineage has {value}"
        for key, value in sorted(lineage.items())
        if tags and isinstance(value, str) and key in tags and tags[key] != value
    ]
    if faults:
        remedy = "restore the commit or the tag, or train and register again"
        raise InputError("lineage-contradicted", bundle_dir, "a lineage that git and DVC confirm", "; ".join(faults), remedy)


def lineage_faults(workspace: Path, lineage: Mapping[str, Any]) -> list[str]:
    """Everything in a lineage that the repository contradicts; [] if it holds. Raises InputError if git fails."""
    commit = str(lineage.get("git_commit", ""))
    if not commit or not has_commit(workspace, commit):
        return [f"commit {commit or '(none)'} is not in this repository"]
    faults = []
    if not git_lines(workspace, "for-each-ref", "--contains", commit, "--count=1") and not _in_head(workspace, commit):
        faults.append(f"commit {commit[:12]} is on no branch, so git may delete it")
    for key, file in FILES_AT_COMMIT.items():
        content = file_at(workspace, commit, file)
        got = "" if content is None else hashlib.sha256(content).hexdigest()
        if got != lineage.get(key, ""):
            faults.append(f"{file} at {commit[:12]} is not the one of its lineage")
    faults += _data_faults(workspace, commit, lineage)
    return faults + _split_faults(workspace, commit, lineage)


def _in_head(workspace: Path, commit: str) -> bool:
    """Whether HEAD, which may be detached, contains the commit."""
    return commit in git_lines(workspace, "rev-list", "HEAD")


def _data_faults(workspace: Path, commit: str, lineage: Mapping[str, Any]) -> list[str]:
    recorded: dict[str, str] = lineage.get("data", {})
    data = datasets_at(workspace, commit)
    differing = sorted(path for path in {*data, *recorded} if data.get(path) != recorded.get(path))
    faults = [f"dataset {path} differs from its .dvc file at {commit[:12]}" for path in differing]
    if canonical_sha256(recorded) != lineage.get("data_sha256"):
        faults.append("its hash over all datasets does not match the datasets it lists")
    return faults


def _split_faults(workspace: Path, commit: str, lineage: Mapping[str, Any]) -> list[str]:
    """Faults of the split: git has only its MD5, so the file is read from DVC's cache or the workspace."""
    lock = yaml.safe_load(file_at(workspace, commit, DVC_LOCK) or b"") or {}
    outs = {out["path"]: out.get("md5", "") for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])}
    if SPLIT.as_posix() not in outs:
        return [f"{DVC_LOCK} at {commit[:12]} has no {SPLIT}"]
    file = cached_out(workspace, SPLIT.as_posix(), outs[SPLIT.as_posix()])
    if file is None:
        return [f"{SPLIT} of {commit[:12]} is in neither the workspace nor DVC's cache, so it cannot be verified (`dvc fetch`)"]
    return [] if sha256_of(file) == lineage.get("split_sha256") else [f"{SPLIT} at {commit[:12]} is not the one of its lineage"]
