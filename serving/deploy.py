"""Make a server serve a release: write its files, load them beside the old ones, try the golden scan, then switch.

What is wanted is an argument; what is there is asked of the server each time. So a deployment does nothing when all is in place,
and one that was killed at any point is finished by the next. The release that answers is untouched until the new one has passed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonclient.utils import InferenceServerException

from cmb_models.bundle import GOLDEN_ANSWER, GOLDEN_PHASE, GOLDEN_SCAN, Bundle, load_bundle
from cmb_models.client.connection import connect
from cmb_models.client.contract import DETECTOR
from cmb_models.client.grpc_client import Client, Serving
from cmb_models.detection import Answer
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.io.nifti import read_volume
from serving.model_repository.step import MODELS
from serving.repository import PROBE, ensemble_config, remove_versions, step_configs, write_config, write_release

logger = logging.getLogger(__name__)

SCORE_TOLERANCE = 1e-4  # between ONNX Runtime builds; FACTS 8: BatchNorm networks agree to 1e-6, scores pass two of them
PLACE_TOLERANCE_MM = 0.1  # well below a voxel: a candidate is the same voxel or another one
ADMIN_HEADER = "triton-grpc-protocol-admin-key"  # Triton's prefix and the name given to --grpc-restricted-protocol
LOAD_S = 300.0  # a GPU server builds its plans while loading


@dataclass(frozen=True)
class Deployed:
    """What was done at one server. previous: the release that answered before and stays loaded, None for the first one."""

    server_url: str
    release: int
    manifest_sha256: str
    previous: int | None
    changed: bool

    def __str__(self) -> str:
        what = f"release {self.release} (manifest {self.manifest_sha256[:12]})"
        if not self.changed:
            return f"{self.server_url}: serves {what} already, nothing to do"
        before = f"; release {self.previous} stays loaded" if self.previous else ""
        return f"{self.server_url}: switched to {what} after its golden scan passed{before}"


def deploy_production(
    repository: Path, server_urls: Sequence[str], workspace: Path = Path("."), done: Callable[[Deployed], None] | None = None
) -> list[Deployed]:
    """Make every server serve the release that the registry's alias `production` names; one result a server, in order.

    done: called with each result as it comes. A server that fails does not keep the others from being served: InputError with all
    the faults comes at the end.
    """
    from cmb_models.registry.store import fetch_release  # imports mlflow, which a server of one given bundle does without

    files = fetch_release("production", workspace)
    results, faults = [], {}
    for url in server_urls:
        try:
            results.append(deploy_bundle(files.bundle_dir, files.release, repository, url, workspace))
        except (InputError, RuntimeError) as error:
            faults[url] = str(error)
            continue
        if done:
            done(results[-1])
    if faults:
        got = "; ".join(f"{url}: {fault}" for url, fault in faults.items())
        raise InputError(", ".join(faults), f"servers that take release {files.release}", got, "mend it and run `cmb deploy` again")
    return results


def deploy_bundle(bundle_dir: Path, release: int, repository: Path, server_url: str, workspace: Path = Path(".")) -> Deployed:
    """Make one server serve a bundle as `release`, the number that clients see.

    repository: the model repository's folder, which the server reads too. The release that answered before stays loaded, older
    ones are removed. Raises InputError, with the old release still serving, for a bundle that is damaged, cannot be loaded or does
    not give its golden answer, and for a release number that is served already with another content.
    workspace: where its commit holds public keys, the bundle must be signed by one of them (registry/signing.py).
    """
    from cmb_models.registry.signing import require_signature

    require_signature(bundle_dir, workspace)
    bundle = load_bundle(bundle_dir)
    if release < 1:
        raise InputError(bundle_dir, "a release number of 1 or more", str(release), "register the bundle first")
    repository = Path(repository)
    with _locked(repository), Client(server_url) as client:
        now = client.serving()
        if now is not None and now.release == release:
            if now.manifest_sha256 != bundle.manifest_sha256:
                got = f"manifest {bundle.manifest_sha256[:12]} while the server has {now.manifest_sha256[:12]}"
                raise InputError(
                    f"release {release}", "one content for ever", got, "use this server's own registry or another --state"
                )
            return Deployed(server_url, release, bundle.manifest_sha256, None, changed=False)
        kept = {now.release} if now else set()
        with contextlib.closing(_Admin(server_url)) as admin:
            write_release(repository, bundle, release)
            try:
                _load_steps(admin, repository, {*kept, release})
                _try_out(admin, bundle, release, server_url)
            except BaseException:
                _withdraw(admin, repository, kept)
                raise
            admin.load(ensemble_config(DETECTOR, release, bundle))
        write_config(repository, ensemble_config(DETECTOR, release, bundle))
        remove_versions(repository, {*kept, release})
    logger.info("%s: release %d replaces %s", server_url, release, now and now.release)
    return Deployed(server_url, release, bundle.manifest_sha256, now.release if now else None, changed=True)


class _Admin:
    """Loading and unloading at one server; $CMB_ADMIN_KEY opens one that restricts these calls to the holders of its key."""

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        key = os.environ.get("CMB_ADMIN_KEY")
        self._headers = {ADMIN_HEADER: key} if key else None

    def load(self, config: dict) -> None:
        """Load a model with the configuration given. Raises InputError when it cannot be; the server goes on with what it had."""
        try:
            self._client.load_model(config["name"], config=json.dumps(config), headers=self._headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            got = " ".join((error.message() or str(error)).split())[:500]
            remedy = "the server keeps its release; read its log and export the bundle again"
            if "restricted" in got:
                remedy = "set CMB_ADMIN_KEY to the server's key"
            raise InputError(f"model {config['name']}", "files that the server can load", got, remedy) from error

    def unload(self, name: str) -> None:
        """Unload a model; nothing happens when it is not loaded."""
        self._client.unload_model(name, headers=self._headers, client_timeout=LOAD_S)

    def close(self) -> None:
        self._client.close()


def _load_steps(admin: _Admin, repository: Path, versions: set[int]) -> None:
    """Make `versions` resident, and nothing else: a model that none of them runs (step.model_of) goes."""
    configs = step_configs(repository, versions)
    for config in configs.values():
        write_config(repository, config)
        admin.load(config)
    for model in MODELS:
        if model not in configs:
            admin.unload(model)


def _try_out(admin: _Admin, bundle: Bundle, release: int, server_url: str) -> None:
    """Send the golden scan through an ensemble of its own that is pinned to the new release; no client of the detector sees it."""
    admin.load(ensemble_config(PROBE, release, bundle))
    try:
        with Client(server_url, model=PROBE) as client:
            phase = read_volume(bundle.path / GOLDEN_PHASE) if bundle.config.preprocess.phase else None
            answer = client.detect(read_volume(bundle.path / GOLDEN_SCAN), f"{bundle.path / GOLDEN_SCAN}", phase)
    finally:
        admin.unload(PROBE)
    check_golden(answer, bundle, release)


def check_golden(answer: Answer, bundle: Bundle, release: int) -> None:
    """Raise InputError unless an answer to the golden scan is the bundle's own, and signed by this release."""
    expected = np.asarray(read_json(bundle.path / GOLDEN_ANSWER)["candidates"], dtype=np.float64).reshape(-1, 4)
    got = np.asarray([[*d.world_mm, d.score] for d in answer.candidates], dtype=np.float64).reshape(-1, 4)
    faults = []
    if Serving(answer.release, answer.manifest_sha256) != Serving(release, bundle.manifest_sha256):
        faults.append(f"an answer of release {answer.release}, manifest {answer.manifest_sha256[:12]}")
    if len(got) != len(expected):
        faults.append(f"{len(got)} candidates for {len(expected)}")
    else:
        faults += _differences(expected, got)
    if faults:
        remedy = "the server keeps its release; compare its environment with the one that exported the bundle"
        raise InputError(f"golden scan of {bundle.path}", "the bundle's own golden answer", "; ".join(faults), remedy)


def _differences(expected: np.ndarray, got: np.ndarray) -> list[str]:
    """What differs between rows [x, y, z, score] (N, 4), paired by place: candidates of nearly equal score may change order."""
    if not len(expected):
        return []
    distance_mm = np.linalg.norm(expected[:, None, :3] - got[None, :, :3], axis=-1)
    nearest = distance_mm.argmin(axis=1)
    moved_mm = distance_mm.min(axis=1)
    score = np.abs(expected[:, 3] - got[nearest, 3])
    faults = []
    if moved_mm.max() > PLACE_TOLERANCE_MM or len(set(nearest.tolist())) < len(nearest):
        faults.append(f"places up to {moved_mm.max():.2f} mm away (tolerance {PLACE_TOLERANCE_MM:g})")
    elif score.max() > SCORE_TOLERANCE:
        faults.append(f"scores up to {score.max():.2g} apart (tolerance {SCORE_TOLERANCE:g})")
    return faults


def _withdraw(admin: _Admin, repository: Path, kept: set[int]) -> None:
    """Take a release that failed out again. Trouble here is logged only: the next deployment starts from what it finds."""
    try:
        if kept:
            _load_steps(admin, repository, kept)
        else:
            for model in MODELS:
                admin.unload(model)
    except (InputError, InferenceServerException) as error:
        logger.warning("could not withdraw the failed release: %s", error)
    remove_versions(repository, kept)


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """One deployment at a time in a repository; the lock goes with the process that holds it."""
    repository.mkdir(parents=True, exist_ok=True)
    with open(repository / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
