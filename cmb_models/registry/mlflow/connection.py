"""The MLflow connection: a quiet import, and one error for an unreachable store."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cmb_models.errors import InputError

URI_VARIABLE = "MLFLOW_TRACKING_URI"
# Error codes of a reachable store for an impossible request; any other fault means that it is unreachable.
REQUEST_ERRORS = {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


class Unreachable(InputError):
    """The registry does not answer; the audit log and the archived releases remain available."""


def registry_missing(uri: str, log: object) -> InputError:
    """The error for a store without the releases that an audit log names: on a second machine, or after a loss."""
    remedy = f"bring it with `rsync -a MACHINE:WORKSPACE/{{mlflow.db,mlartifacts,releases}} .`, or name it by {URI_VARIABLE}"
    expected = f"the registry that holds the releases of {log}"
    return InputError("registry-missing", without_password(uri), expected, "one without releases", remedy)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Raise Unreachable for a store that does not answer; MLflow's answers to invalid requests pass through."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code in REQUEST_ERRORS:
            raise
        got = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreachable(
            "registry-unreachable", without_password(uri), "a registry that answers", got, _remedy(str(error))
        ) from error


def _remedy(answer: str) -> str:
    """What to do about a store's answer, which may be that of a proxy in front of it."""
    if "Invalid Host header" in answer:
        return "add the host of this address to those MLflow accepts (--allowed-hosts; CMB_REGISTRY_HOSTS with deploy/compose.yaml)"
    if re.search(r"\b(401|403|407)\b|PERMISSION_DENIED|UNAUTHENTICATED", answer):
        return "it runs and denies access: check the log-in, and the rights that it and a proxy in front of it grant"
    return f"start it, or correct {URI_VARIABLE}"


def without_password(uri: str) -> str:
    """A store's address with the password masked."""
    return re.sub(r"(?<=//)([^/@:]*):[^/@]*@", r"\1:…@", uri)


def quiet_environment() -> None:
    """Switch off MLflow's telemetry, job runner, progress bars and downloads past the server; shorten its wait for a dead one."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's default of seven delays a command by minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        # Through the server, which alone need reach its storage: else MLflow sends clients of an S3 store there.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def quiet_mlflow():
    """Import mlflow without its database messages."""
    quiet_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # in case another library imported mlflow first
    return mlflow
