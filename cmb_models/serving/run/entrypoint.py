"""The image's entry point: turns CMB_* variables into arguments and replaces itself by tritonserver.

`python3 -m cmb_models.serving.run.entrypoint [TRITON ARGUMENT ...]` starts the server; with `health` as its only argument it
checks a running one (the image's HEALTHCHECK). There is no shell, so stop signals reach the server. Unsafe settings are
rejected; settings.VARIABLES describes each, docs/explanation/serving.md when to use which.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence

from cmb_models.errors import InputError
from cmb_models.serving.run.devices import without_cards
from cmb_models.serving.run.settings import MODES, PING_MS, RESTRICTED, VARIABLES, Settings, read_settings
from cmb_models.serving.run.triton_process import thread_arguments

OVER_HTTP = ("inference", "metadata", "model-config", "statistics", *RESTRICTED)  # all but health, since Triton's HTTP has no TLS


def triton_arguments(settings: Settings) -> list[str]:
    """The command line of tritonserver, program first."""
    ports = {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port}
    arguments = [
        str(settings.triton),
        f"--model-repository={settings.repository}",
        f"--model-control-mode={MODES[settings.mode]}",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        f"--exit-timeout-secs={settings.exit_timeout_s}",
        *(f"--{service}-address={settings.security.host}" for service in ports),
        *(f"--{service}-port={port}" for service, port in ports.items()),
        f"--grpc-http2-min-recv-ping-interval-without-data={PING_MS}",
        *thread_arguments(),
        "--grpc-infer-allocation-pool-size=0",  # free messages of hundreds of megabytes after use
        *settings.security.guard(OVER_HTTP),
    ]
    if settings.backends:
        arguments.append(f"--backend-directory={settings.backends}")
    return arguments


def ready(environ: Mapping[str, str], timeout_s: float = 5) -> bool:
    """Whether the server that these variables describe is ready, with every model loaded. False if nothing answers."""
    address = environ.get("CMB_ADDRESS") or VARIABLES["CMB_ADDRESS"][0]
    host = "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address
    port = int(environ.get("CMB_HTTP_PORT") or VARIABLES["CMB_HTTP_PORT"][0])
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})  # open connections stall Triton's shutdown
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """Answer `health`, or become tritonserver; returns 2 with a line on stderr for invalid settings."""
    if list(arguments) == ["health"]:
        return 0 if ready(os.environ) else 1
    try:
        command = [*triton_arguments(read_settings(os.environ)), *arguments]
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    os.execve(command[0], command, without_cards(os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
