"""What the image runs: CMB_* variables become tritonserver's arguments, and this process becomes tritonserver.

`python3 -m cmb_models.serving.run.entrypoint [TRITON ARGUMENT ...]` starts the server; with `health` as its only argument it
checks a running one (the image's HEALTHCHECK). No shell stands between, so a stop signal reaches the server itself. Unsafe
settings are rejected: settings.VARIABLES describes each, docs/explanation/serving.md when to use which.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence

from cmb_models.errors import InputError
from cmb_models.serving.run.settings import MODES, PING_MS, RESTRICTED, VARIABLES, Settings, read_settings
from cmb_models.serving.run.triton_process import thread_arguments

OVER_HTTP = ("inference", "metadata", "model-config", "statistics", *RESTRICTED)  # all but health: Triton's HTTP has no TLS


def triton_arguments(settings: Settings) -> list[str]:
    """tritonserver's command line, its program first."""
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
        "--grpc-infer-allocation-pool-size=0",  # messages of hundreds of megabytes are freed, not kept for the next
        *settings.security.guard(OVER_HTTP),
    ]
    if settings.backends:
        arguments.append(f"--backend-directory={settings.backends}")
    return arguments


def ready(environ: Mapping[str, str], timeout_s: float = 5) -> bool:
    """Whether the server that these variables describe is ready, every model loaded. False when nothing answers."""
    address = environ.get("CMB_ADDRESS") or VARIABLES["CMB_ADDRESS"][0]
    host = "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address
    port = int(environ.get("CMB_HTTP_PORT") or VARIABLES["CMB_HTTP_PORT"][0])
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})  # a kept connection would stall the end
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """Answer `health`, or become tritonserver; 2 and one line on stderr when it must not start."""
    if list(arguments) == ["health"]:
        return 0 if ready(os.environ) else 1
    try:
        command = [*triton_arguments(read_settings(os.environ)), *arguments]
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
