"""Start `mlflow server` with passwords read from files, since `docker inspect` shows variables and arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

SECRETS = Path("/run/secrets")
HOSTS = "mlflow:5000,localhost:5000,127.0.0.1:5000"  # prevents DNS rebinding
MORE_HOSTS = "CMB_REGISTRY_HOSTS"  # comma-separated names, with ports, by which a proxy's clients call the registry


def environment(secrets: Path = SECRETS) -> dict[str, str]:
    """The variables that mlflow and boto3 read."""
    names = ("postgres_password", "s3_access_key", "s3_secret_key")
    password, access, secret = ((secrets / name).read_text(encoding="utf-8").strip() for name in names)
    return {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{quote(password, safe='')}@postgres:5432/mlflow",
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def command() -> list[str]:
    """The server's command line. Clients send artifacts to it, so only the server holds the store's keys."""
    hosts = ",".join(filter(None, (HOSTS, os.environ.get(MORE_HOSTS, ""))))
    return [
        "mlflow",
        "server",
        "--host=0.0.0.0",
        "--port=5000",
        "--workers=2",
        "--serve-artifacts",
        "--artifacts-destination=s3://mlflow/artifacts",
        f"--allowed-hosts={hosts}",
    ]


if __name__ == "__main__":
    os.environ.update(environment())
    os.execvp(command()[0], [*command(), *sys.argv[1:]])
