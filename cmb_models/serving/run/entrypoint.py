"""What the image runs: CMB_* variables become tritonserver's arguments, and this process becomes tritonserver.

`python3 -m cmb_models.serving.run.entrypoint [TRITON ARGUMENT ...]` starts the server; with `health` as its only argument it
checks a running one (the image's HEALTHCHECK). No shell stands between, so a stop signal reaches the server itself. Unsafe
settings are rejected: VARIABLES describes each setting, docs/serving.md when to use which.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.serving.run.security import KEY, PING_MS, RESTRICTED, guard
from cmb_models.serving.run.triton_process import thread_arguments

IMMUTABLE, EXPLICIT = "immutable", "explicit"
MODES = {IMMUTABLE: "none", EXPLICIT: "explicit"}  # to --model-control-mode
# name: (default, what it is for). Everything this module reads; tests hold the files in deploy/ to it.
VARIABLES = {
    "CMB_MODE": (
        IMMUTABLE,
        "immutable: serve what is in the repository; explicit: `cmb server deploy` loads and switches releases",
    ),
    "CMB_REPOSITORY": ("/models", "the model repository; read-only is enough"),
    "CMB_ADDRESS": ("127.0.0.1", "address to listen on; the image sets 0.0.0.0"),
    "CMB_GRPC_PORT": ("8001", "what clients use"),
    "CMB_HTTP_PORT": ("8000", "health probes only"),
    "CMB_METRICS_PORT": ("8002", "Prometheus; never TLS, keep it inside the cluster"),
    "CMB_SERVER_CERT": ("", "PEM file of the server's certificate, with its chain"),
    "CMB_SERVER_KEY": ("", "PEM file of its private key"),
    "CMB_SERVER_CLIENT_CA": ("", "PEM file of the authority whose clients alone may connect (mTLS)"),
    "CMB_ADMIN_KEY": ("", "opens model control and shared memory; explicit mode needs it"),
    "CMB_ADMIN_KEY_FILE": ("", "a file that holds it, instead"),
    "CMB_INSECURE_NETWORK": ("", "1: no TLS although others can connect, since a mesh or ingress encrypts"),
    "CMB_EXIT_TIMEOUT_S": ("30", "how long requests under way may take once the server is told to stop"),
    "CMB_REQUEST_LOG": ("", "left to the steps: the file for their line a request; /dev/stdout is the container's log"),
    "CMB_TRITON": ("/opt/tritonserver/bin/tritonserver", "the server's program"),
    "CMB_BACKENDS": ("", "folder of backends, where it is not the program's own"),
}
OVER_HTTP = ("inference", "metadata", "model-config", "statistics", *RESTRICTED)  # all but health: Triton's HTTP has no TLS


@dataclass(frozen=True)
class Settings:
    """How the server is to run. Ports on `address`; tls_* None without TLS; admin_key never empty."""

    mode: str
    repository: Path
    address: str
    grpc_port: int
    http_port: int
    metrics_port: int
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    admin_key: str
    exit_timeout_s: int
    triton: Path
    backends: Path | None


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in a set of environment variables. Raises InputError for what is impossible, missing or not safe."""
    value = {name: environ.get(name) or default for name, (default, _) in VARIABLES.items()}
    if value["CMB_MODE"] not in MODES:
        raise InputError("setting-invalid", "CMB_MODE", " or ".join(MODES), value["CMB_MODE"], "correct the variable")
    cert, key, client_ca = (_file(name, value[name]) for name in ("CMB_SERVER_CERT", "CMB_SERVER_KEY", "CMB_SERVER_CLIENT_CA"))
    if (cert is None) != (key is None) or (client_ca and not cert):
        given = " and ".join(n for n in ("CMB_SERVER_CERT", "CMB_SERVER_KEY", "CMB_SERVER_CLIENT_CA") if value[n])
        raise InputError("tls-incomplete", "TLS", "CMB_SERVER_CERT with CMB_SERVER_KEY", f"{given} alone", "set both, or neither")
    if not (cert or _loopback(value["CMB_ADDRESS"]) or value["CMB_INSECURE_NETWORK"] == "1"):
        remedy = "set CMB_SERVER_CERT and CMB_SERVER_KEY, or CMB_INSECURE_NETWORK=1 where a mesh or ingress encrypts"
        raise InputError(
            "tls-required", f"CMB_ADDRESS {value['CMB_ADDRESS']}", "TLS on an address others can reach", "none", remedy
        )
    return Settings(
        value["CMB_MODE"],
        _folder("CMB_REPOSITORY", value["CMB_REPOSITORY"]),
        value["CMB_ADDRESS"],
        *(_number(f"CMB_{name}_PORT", value[f"CMB_{name}_PORT"], 65535) for name in ("GRPC", "HTTP", "METRICS")),
        cert,
        key,
        client_ca,
        _admin_key(value),
        _number("CMB_EXIT_TIMEOUT_S", value["CMB_EXIT_TIMEOUT_S"], 3600),
        _file("CMB_TRITON", value["CMB_TRITON"]),
        _folder("CMB_BACKENDS", value["CMB_BACKENDS"]) if value["CMB_BACKENDS"] else None,
    )


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
        *(f"--{service}-address={settings.address}" for service in ports),
        *(f"--{service}-port={port}" for service, port in ports.items()),
        f"--grpc-http2-min-recv-ping-interval-without-data={PING_MS}",
        *thread_arguments(),
        "--grpc-infer-allocation-pool-size=0",  # messages of hundreds of megabytes are freed, not kept for the next
        *guard(settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.admin_key, OVER_HTTP),
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


def _admin_key(value: Mapping[str, str]) -> str:
    """The key given, or in immutable mode one that nobody knows: what it guards is then shut."""
    key, source = value["CMB_ADMIN_KEY"], "CMB_ADMIN_KEY"
    if value["CMB_ADMIN_KEY_FILE"]:
        if key:
            raise InputError("options-conflict", source, "the key, or CMB_ADMIN_KEY_FILE", "both", "unset one of them")
        source = "CMB_ADMIN_KEY_FILE"
        key = _file(source, value[source]).read_text(encoding="utf-8").strip()
    elif not key and value["CMB_MODE"] == IMMUTABLE:
        return secrets.token_hex(32)
    if not KEY.fullmatch(key):
        got = f"{len(key)} characters" if key else "none"
        raise InputError(
            "admin-key-unusable", source, "16 or more letters, digits, - and _", got, "make one with `openssl rand -hex 32`"
        )
    return key


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise InputError(
            "setting-invalid", "CMB_ADDRESS", "an IP address", address, "set 127.0.0.1, or 0.0.0.0 for all networks"
        ) from error


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise InputError("setting-invalid", name, f"a whole number from 1 to {most}", text, "correct the variable")
    return int(text)


def _file(name: str, text: str) -> Path | None:
    if not text:
        return None
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise InputError(
            "file-not-readable", name, "a file that can be read", f"{text}: {error.strerror}", "mount it, readable to this user"
        ) from error


def _folder(name: str, text: str) -> Path:
    if not os.access(text, os.R_OK | os.X_OK) or not Path(text).is_dir():
        raise InputError("setting-invalid", name, "a folder that can be read", text, "mount it, readable to this user")
    return Path(text)


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
