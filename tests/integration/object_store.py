"""An S3 server, a process of its own on this machine, that checks who asks: Moto's, which keeps objects in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.mlflow_server import free_port

REGION = "us-east-1"
START_S = 60


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server. key_id, secret: of its only user."""

    url: str
    key_id: str
    secret: str
    process: subprocess.Popen

    @property
    def variables(self) -> dict[str, str]:
        """For a program that uses boto3."""
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": REGION}

    def objects(self, bucket: str) -> dict[str, int]:
        """Size by name."""
        pages = client(self.url, "s3", self.key_id, self.secret).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}


def client(url: str, service: str, key_id: str = "anyone", secret: str = "anything") -> Any:
    """A client of a service at this address."""
    import boto3

    return boto3.client(service, endpoint_url=url, region_name=REGION, aws_access_key_id=key_id, aws_secret_access_key=secret)


@contextmanager
def running_store(folder: Path, *buckets: str) -> Iterator[ObjectStore]:
    """A server with these buckets, which its user alone may use; ends with the context. RuntimeError: its log's end."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = folder / "object-store.txt"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=stream)
    try:
        _await(url, process, log)
        for bucket in buckets:
            client(url, "s3").create_bucket(Bucket=bucket)
        key_id, secret = _user(url)
        # From here on the server refuses requests that the user did not sign.
        ask = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(ask, timeout=10).close()
        yield ObjectStore(url, key_id, secret, process)
    finally:
        process.kill()
        process.wait()


def _user(url: str) -> tuple[str, str]:
    """Key and secret of a new user who may use all buckets."""
    iam = client(url, "iam")
    iam.create_user(UserName="site")
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="site", PolicyName="buckets", PolicyDocument=json.dumps(allow))
    key = iam.create_access_key(UserName="site")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _await(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")
