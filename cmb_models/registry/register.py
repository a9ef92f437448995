"""Registration of a workspace's bundle as a release; rejected unless git and DVC account for everything it was made from."""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cmb_models.client.outputs import COLUMNS
from cmb_models.errors import InputError
from cmb_models.files import read_json
from cmb_models.hash_chain import utc_now
from cmb_models.records import flatten, is_number
from cmb_models.registry.mlflow.store import MODEL, Registry, Release, open_registry, quiet_mlflow
from cmb_models.registry.mlflow.tracking import log_numbers, start_run
from cmb_models.registry.promote import PRODUCTION, registry_lock
from cmb_models.registry.provenance.datasets import dataset_records
from cmb_models.registry.provenance.lineage import cache_lineage, require_lineage
from cmb_models.release.bundle import verify_manifest
from cmb_models.release.finalize import EVALUATION_FILES, complete_bundle
from cmb_models.release.keys import public_pem, require_key, trusted_keys
from cmb_models.release.signing import sign_bundle, verify_signature
from cmb_models.workspace.paths import BUNDLE, CROSS_VALIDATE_METRICS, EVALUATE_METRICS, PARAMS, SPLIT
from cmb_models.workspace.recorded_data import require_recorded
from cmb_models.workspace.versioning import (
    find_workspace,
    require_clean,
    require_tracked,
    require_up_to_date,
    source_hashes,
    start_dvc_status,
    user_name,
)
from cmb_models.workspace.withdrawals import require_none_withdrawn

REQUIREMENTS = ("mlflow", "numpy", "scipy", "nibabel", "openvino", "pandas", "pydantic", "pyyaml")  # what pyfunc_model.py needs
TAGS_FROM_METRICS = ("sensitivity", "fp_per_scan")
DATASET_ROLES = {"training": "training_scans", "locked test": "locked_scans"}  # shown by MLflow; where lineage.json has them


@dataclass(frozen=True)
class Registration:
    """The release that holds the workspace's bundle; is_new is False if it was already registered."""

    release: int
    is_new: bool
    metrics: dict[str, Any]


def register(start: Path = Path(".")) -> Registration:
    """Register models/bundle of the workspace around `start` as a new release, or return the one that already holds it.

    The same bundle with the same dvc.lock is the same release.

    Raises:
        InputError: For a dirty git tree, outputs that differ from dvc.lock, data that differs from its .dvc files, a
            withdrawn scan, missing reports, a bundle that differs from its manifest, a lineage that the repository contradicts,
            and a missing or wrong signing key where the workspace's commit holds public keys; for an empty registry where the
            audit log names releases, since numbers would be given twice.
    """
    workspace = find_workspace(Path(start))
    require_clean(workspace)
    key = require_key(workspace)
    require_tracked(workspace, (SPLIT, BUNDLE, EVALUATE_METRICS, CROSS_VALIDATE_METRICS, *EVALUATION_FILES))
    status = start_dvc_status(workspace)
    quiet_mlflow()  # import it while DVC runs
    require_up_to_date(workspace, status)
    require_recorded(workspace)
    require_none_withdrawn(workspace)
    export_sha256 = verify_manifest(workspace / BUNDLE)
    metrics = {"evaluate": _metrics(workspace / EVALUATE_METRICS), "cross_validate": _metrics(workspace / CROSS_VALIDATE_METRICS)}
    with open_registry(workspace) as registry, registry_lock(registry):
        registry.require_history()
        source = source_hashes(workspace)
        releases = registry.releases()
        known = _registered(releases, export_sha256, source["dvc_lock_sha256"])
        if known is not None:
            return Registration(known.number, False, metrics)
        production = str(registry.aliases().get(PRODUCTION, ""))
        facts: dict[str, Any] = {
            "export_sha256": export_sha256,
            "parent_release": production,
            "created": utc_now(),
            "user": user_name(workspace),
        }
        facts |= {"datasets": dataset_records(workspace), "parent": _parent(releases, production)}
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            lineage, manifest_sha256 = complete_bundle(workspace, bundle, {**source, **facts}, metrics)
            require_lineage(workspace, bundle)
            tags = {"manifest_sha256": manifest_sha256, "signed_by": _sign(bundle, key, workspace)}
            number = _log_release(registry, bundle, lineage, {k: v for k, v in tags.items() if v}, metrics)
            cache_lineage(workspace, number, bundle, manifest_sha256)
        return Registration(number, True, metrics)


def _sign(bundle: Path, key: Path | None, workspace: Path) -> str:
    """Sign the bundle and verify the signature; return the name of the public key, "" without a key."""
    if key is None:
        return ""
    sign_bundle(bundle, key)
    return verify_signature(bundle, trusted_keys(workspace) or {key.with_suffix(".pub").name: public_pem(key)})


def _metrics(file: Path) -> dict[str, Any]:
    """Read the metrics.json of a stage; numbers must be finite, null means undefined."""
    metrics = read_json(file)
    invalid = [k for k, v in flatten(metrics).items() if isinstance(v, float) and not is_number(v)]
    if invalid:
        raise InputError(
            "metrics-not-finite",
            file,
            "finite numbers or null",
            f"not finite: {', '.join(invalid)}",
            "correct the stage that writes it",
        )
    return metrics


def _registered(releases: list[Release], export_sha256: str, dvc_lock_sha256: str) -> Release | None:
    hashes = (export_sha256, dvc_lock_sha256)
    return next((r for r in releases if (r.tags.get("export_sha256"), r.tags.get("dvc_lock_sha256")) == hashes), None)


def _parent(releases: list[Release], production: str) -> dict[str, Any]:
    """The release that a new one follows: the one in production, else the latest; {} for the first."""
    last = next((r for r in releases if str(r.number) == production), releases[-1] if releases else None)
    if last is None:
        return {}
    is_production = str(last.number) == production
    manifest_sha256 = last.tags.get("manifest_sha256", "")
    return {"release": last.number, "manifest_sha256": manifest_sha256, "was": PRODUCTION if is_production else "latest"}


def _log_release(registry: Registry, bundle: Path, lineage: dict, tags: dict[str, str], metrics: dict) -> int:
    """Log an MLflow run with the model and register it with all tags in one call: an interruption leaves no partial release."""
    mlflow = quiet_mlflow()
    tags = _tags(lineage, metrics["evaluate"]) | tags
    run_id = start_run(registry, "release", {"stage": "register", **tags})
    with mlflow.start_run(run_id=run_id):
        params = yaml.safe_load((registry.workspace / PARAMS).read_text(encoding="utf-8"))
        log_numbers(registry, run_id, params, metrics)
        _log_datasets(registry, run_id, lineage)
        reports = registry.workspace / "reports"
        for file in sorted((*reports.rglob("*.png"), *reports.glob("*.html"))):
            registry.client.log_artifact(run_id, str(file), file.parent.relative_to(registry.workspace).as_posix())
        model_id = _log_model(mlflow, bundle)
    registry.ensure_model()
    version = registry.client.create_model_version(
        MODEL, f"models:/{model_id}", run_id, tags=tags, description=_description(metrics), model_id=model_id
    )
    return int(version.version)


def _description(metrics: dict) -> str:
    """The model version's description in MLflow: a summary of both evaluations, without undefined figures."""
    lines = []
    for stage, name in (("evaluate", "Held-out test set"), ("cross_validate", "Out of fold")):
        found, wrong = (metrics.get(stage, {}).get(k) for k in ("sensitivity", "fp_per_scan"))
        if is_number(found) and is_number(wrong):
            counts = [metrics[stage].get(k) for k in ("n_lesions", "n_scans")]
            of = " of {} microbleeds in {} scans".format(*counts) if all(map(is_number, counts)) else ""
            lines.append(f"{name}: {100 * found:.0f} %{of} detected, {wrong:.2f} false positives per scan.")
    return "\n\n".join([*lines, "The model card is in the artifacts. Research software, not a medical device."])


def _tags(lineage: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    """Tags for `cmb release list` and the MLflow UI: hashes, commit, studies, trials and the headline metrics."""
    tags = {k: v for k, v in lineage.items() if isinstance(v, str) and v}
    tags |= {k: str(v) for k, v in flatten({"studies": lineage.get("studies", {})}).items()}
    return tags | {k: str(test[k]) for k in TAGS_FROM_METRICS if is_number(test.get(k))}


def _log_model(mlflow, bundle: Path) -> str:
    """Log the bundle as a pyfunc model of the active run; return its model id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an input example, which would be an entire scan
        logged = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("mlflow") / "pyfunc_model.py"),
            artifacts={"bundle": str(bundle)},
            signature=_signature(),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    return logged.model_id


def _log_datasets(registry: Registry, run_id: str, lineage: dict[str, Any]) -> None:
    """Log the datasets and their use as inputs of the run, with DVC's hash as MLflow's digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for path, md5 in lineage["data"].items():
        name = Path(path).name
        counts = {role: sum(k.startswith(f"{name}_") for k in lineage.get(key, {})) for role, key in DATASET_ROLES.items()}
        contexts = [role for role, n in counts.items() if n] or ["unused"]
        source = json.dumps({"path": path, "md5": md5})
        dataset = Dataset(name, md5, "dvc", source, profile=json.dumps({"scans": counts}))
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", ", ".join(contexts))]))
    if inputs:
        registry.client.log_inputs(run_id, inputs)


def _signature():
    """The MLflow signature of pyfunc_model.py."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    kinds = {"scan": "string", "manifest_sha256": "string", **dict.fromkeys(("i", "j", "k", "release"), "long")}
    outputs = [ColSpec(kinds.get(name, "double"), name) for name in COLUMNS]
    return ModelSignature(inputs=Schema([ColSpec("string", "path")]), outputs=Schema(outputs))
