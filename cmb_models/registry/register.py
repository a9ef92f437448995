"""Registering a workspace's bundle as a release: refused unless git and DVC can say exactly what it was made from."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cmb_models.bundle import CARD_FILE, LINEAGE_FILE, MANIFEST_FILE, METADATA_FILE, verify_manifest, write_manifest
from cmb_models.chain import utc_now
from cmb_models.client.outputs import COLUMNS
from cmb_models.errors import InputError
from cmb_models.files import read_json, write_json, write_text
from cmb_models.registry.promote import PRODUCTION, registry_lock
from cmb_models.registry.store import MODEL, Registry, Release, open_registry, quiet_mlflow
from cmb_models.registry.tracking import flatten, is_number, log_numbers, start_run
from cmb_models.registry.workspace import (
    BUNDLE_DIR,
    CROSS_VALIDATE_METRICS,
    EVALUATE_METRICS,
    PARAMS_FILE,
    SPLIT_FILE,
    find_workspace,
    require_clean,
    require_tracked,
    require_up_to_date,
    source_hashes,
    start_dvc_status,
    user_name,
)

REQUIREMENTS = ("mlflow", "numpy", "scipy", "nibabel", "onnxruntime", "pandas", "pydantic", "pyyaml")  # what pyfunc_model.py needs
TAGS_FROM_METRICS = ("sensitivity", "fp_per_scan")


@dataclass(frozen=True)
class Registration:
    """The release that holds the workspace's bundle; is_new is False when it was registered before."""

    release: int
    is_new: bool
    metrics: dict[str, Any]


def register(start: Path = Path(".")) -> Registration:
    """Register models/bundle of the workspace around `start` as a new release, or name the one that already holds it.

    The same bundle with the same dvc.lock is the same release. Raises InputError for a dirty git tree, outputs that differ
    from dvc.lock, missing reports and a bundle that differs from its manifest.
    """
    workspace = find_workspace(Path(start))
    require_clean(workspace)
    require_tracked(workspace, (SPLIT_FILE, BUNDLE_DIR, EVALUATE_METRICS, CROSS_VALIDATE_METRICS))
    status = start_dvc_status(workspace)
    quiet_mlflow()  # imports while DVC works
    require_up_to_date(workspace, status)
    export_sha256 = verify_manifest(workspace / BUNDLE_DIR)
    metrics = {"evaluate": _metrics(workspace / EVALUATE_METRICS), "cross_validate": _metrics(workspace / CROSS_VALIDATE_METRICS)}
    with open_registry(workspace) as registry, registry_lock(registry):
        source = source_hashes(workspace)
        known = _registered(registry.releases(), export_sha256, source["dvc_lock_sha256"])
        if known is not None:
            return Registration(known.number, False, metrics)
        parent = str(registry.aliases().get(PRODUCTION, ""))
        facts = {"export_sha256": export_sha256, "parent_release": parent, "created": utc_now(), "user": user_name(workspace)}
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            lineage, manifest_sha256 = complete_bundle(workspace / BUNDLE_DIR, bundle, {**source, **facts}, metrics)
            number = _log_release(registry, bundle, lineage, manifest_sha256, metrics)
        return Registration(number, True, metrics)


def complete_bundle(exported: Path, target: Path, facts: dict[str, Any], metrics: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Copy an exported bundle to `target` with lineage, metrics and model card completed; return lineage and manifest's SHA-256.

    facts: keys for lineage.json, over those that the export stage wrote (study and trial ids stay). metrics: {stage: {...}}.
    """
    shutil.copytree(exported, target)
    lineage = {**read_json(target / LINEAGE_FILE), **facts}
    write_json(target / LINEAGE_FILE, lineage)
    metadata = read_json(target / METADATA_FILE)
    write_json(target / METADATA_FILE, {**metadata, "metrics": {**metadata.get("metrics", {}), **metrics}})
    card = (target / CARD_FILE).read_text(encoding="utf-8")
    write_text(target / CARD_FILE, card.rstrip("\n") + "\n\n" + _card_section(lineage, metrics))
    (target / MANIFEST_FILE).unlink()
    return lineage, write_manifest(target)


def _card_section(lineage: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Measurements and origin as Markdown for the model card."""
    rows = [
        f"| {stage} | {name} | {value:.4g} |" for stage, part in metrics.items() for name, value in part.items() if is_number(value)
    ]
    origin = [f"- {key}: `{value}`" for key, value in sorted(lineage.items()) if isinstance(value, str) and value]
    table = ["| stage | metric | value |", "|---|---|---|", *rows]
    return "\n".join(["## Measured", "", *table, "", "## Origin", "", *origin, ""])


def _metrics(file: Path) -> dict[str, Any]:
    """One stage's metrics.json; numbers must be finite, null stands for undefined."""
    metrics = read_json(file)
    bad = [k for k, v in flatten(metrics).items() if isinstance(v, float) and not is_number(v)]
    if bad:
        raise InputError(file, "finite numbers or null", f"not finite: {', '.join(bad)}", "correct the stage that writes it")
    return metrics


def _registered(releases: list[Release], export_sha256: str, dvc_lock_sha256: str) -> Release | None:
    wanted = (export_sha256, dvc_lock_sha256)
    return next((r for r in releases if (r.tags.get("export_sha256"), r.tags.get("dvc_lock_sha256")) == wanted), None)


def _log_release(registry: Registry, bundle: Path, lineage: dict, manifest_sha256: str, metrics: dict) -> int:
    """One MLflow run with the model, registered with all its tags at once, so that a killed command leaves no half release."""
    mlflow = quiet_mlflow()
    tags = _tags(lineage, metrics["evaluate"]) | {"manifest_sha256": manifest_sha256}
    run_id = start_run(registry, "release", {"stage": "register", **tags})
    with mlflow.start_run(run_id=run_id):
        params = yaml.safe_load((registry.workspace / PARAMS_FILE).read_text(encoding="utf-8"))
        log_numbers(registry, run_id, params, metrics)
        _log_datasets(registry, run_id, lineage["data"])
        for figure in sorted((registry.workspace / "reports").rglob("*.png")):
            registry.client.log_artifact(run_id, str(figure), figure.parent.relative_to(registry.workspace).as_posix())
        model_id = _log_model(mlflow, bundle)
    registry.ensure_model()
    made = registry.client.create_model_version(MODEL, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)
    return int(made.version)


def _tags(lineage: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    """What `cmb models` and MLflow's pages show of a release: hashes, commit, studies and trials, and the figures that gate it."""
    tags = {k: v for k, v in lineage.items() if isinstance(v, str) and v}
    tags |= {k: str(v) for k, v in flatten({"studies": lineage.get("studies", {})}).items()}
    return tags | {k: str(test[k]) for k in TAGS_FROM_METRICS if is_number(test.get(k))}


def _log_model(mlflow, bundle: Path) -> str:
    """Log the bundle as a pyfunc model of the active run; return MLflow's id of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an input example, which would be a whole scan
        logged = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"bundle": str(bundle)},
            signature=_signature(),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    return logged.model_id


def _log_datasets(registry: Registry, run_id: str, data: dict[str, str]) -> None:
    """The datasets as inputs of the run: MLflow's digest is DVC's hash."""
    from mlflow.entities import Dataset, DatasetInput

    inputs = [DatasetInput(Dataset(Path(p).name, md5, "dvc", json.dumps({"path": p, "md5": md5}))) for p, md5 in data.items()]
    if inputs:
        registry.client.log_inputs(run_id, inputs)


def _signature():
    """What pyfunc_model.py takes and gives, for MLflow's own checks."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    kinds = {"scan": "string", **dict.fromkeys(("i", "j", "k", "release"), "long")}
    outputs = [ColSpec(kinds.get(name, "double"), name) for name in COLUMNS]
    return ModelSignature(inputs=Schema([ColSpec("string", "path")]), outputs=Schema(outputs))
