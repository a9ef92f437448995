"""Logging to MLflow for the stages of the pipeline: params, metrics and artifacts, one run per stage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_models.records import flatten, is_number
from cmb_models.registry.mlflow.store import open_registry

if TYPE_CHECKING:
    from cmb_models.registry.mlflow.store import Registry

logger = logging.getLogger(__name__)

MAX_BATCH = 100  # MLflow takes at most 100 parameters in one request
MAX_VALUE = 6000  # characters of a parameter's value that MLflow stores


def log_stage(
    stage: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    artifacts: Iterable[Path] = (),
    tags: Mapping[str, str] | None = None,
    workspace: Path = Path("."),
) -> str:
    """Log one finished run named after a DVC stage into the workspace's experiment.

    Args:
        stage: Name of the stage.
        params: Parameters, may be nested: keys are joined by dots.
        metrics: Metrics, may be nested; values that are not finite numbers are left out.
        artifacts: Files to store with the run.
        tags: Further tags.
        workspace: A folder inside the workspace.

    Returns:
        The run id; "" with a warning if the store cannot be reached, since the stage's outputs do not depend on it.
    """
    try:
        with open_registry(workspace) as registry:
            run_id = start_run(registry, stage, {"stage": stage, **(tags or {})})
            log_numbers(registry, run_id, params, metrics)
            for file in artifacts:
                registry.client.log_artifact(run_id, str(file))
            registry.client.set_terminated(run_id)
            return run_id
    except Exception as error:  # no fault of the store or network may lose an hour's training
        logger.warning("%s was not logged to MLflow: %s", stage, " ".join(str(error).split())[:300])
        return ""


def start_run(registry: Registry, name: str, tags: Mapping[str, str]) -> str:
    """Create a run in the workspace's experiment; return its id."""
    return registry.client.create_run(registry.experiment_id(), tags=dict(tags), run_name=name).info.run_id


def log_numbers(registry: Registry, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Log flattened parameters and metrics in as few requests as MLflow permits."""
    from mlflow.entities import Metric, Param
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    rows = [Param(k, str(v)[:MAX_VALUE]) for k, v in flatten(params).items()]
    points = [Metric(k, float(v), now, 0) for k, v in flatten(metrics).items() if is_number(v)]
    for start in range(0, max(len(rows), 1), MAX_BATCH):
        registry.client.log_batch(run_id, metrics=points if start == 0 else (), params=rows[start : start + MAX_BATCH])
