"""Settings of a server: its security, and for the image all settings from CMB_* variables.

On loopback an admin key suffices; it is needed since loading a model runs its code and loopback is open to other users of the
machine. Elsewhere TLS and an admin key are required. Triton's HTTP has no TLS. `Security` enforces this for `cmb server run` and
for the image.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.client.contract import ADMIN_KEY
from cmb_models.errors import InputError

LOOPBACK = "127.0.0.1"
MIN_KEY_LENGTH = 16  # a random key has 43 characters, a guessable word fewer
KEY = re.compile(rf"[A-Za-z0-9_-]{{{MIN_KEY_LENGTH},}}")  # Triton splits its argument at other characters
INVALID_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")
# Calls that change a server or read its host's memory and files. Open: health, metadata, model-config (which names the release),
# statistics (counts, as in the metrics) and inference.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
# Also restricted over HTTP once gRPC is on a network, since Triton's HTTP has no TLS.
ALSO_OVER_HTTP = ("inference", "model-config")
PING_MS = 10_000  # minimum interval of clients' keep-alive pings; they send one per minute (client/connection.py)

IMMUTABLE, EXPLICIT = "immutable", "explicit"
MODES = {IMMUTABLE: "none", EXPLICIT: "explicit"}  # to --model-control-mode
# name: (default, description). All variables of this module; tests check the files in deploy/ against it.
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
    "CMB_ADMIN_KEY_FILE": ("", "a file that holds it instead"),
    "CMB_INSECURE_NETWORK": ("", "1: no TLS although others can connect, since a mesh or ingress encrypts"),
    "CMB_EXIT_TIMEOUT_S": ("30", "how long running requests may take after a stop signal"),
    "CMB_REQUEST_LOG": ("", "read by the steps: file for one line per request; /dev/stdout is the container's log"),
    "CMB_TRITON": ("/opt/tritonserver/bin/tritonserver", "the server's program"),
    "CMB_BACKENDS": ("", "folder of backends, if not the program's default"),
}


@dataclass(frozen=True)
class Names:
    """Names of the settings of `Security` in its errors: options or variables."""

    host: str
    cert: str
    key: str
    client_ca: str


OPTIONS = Names("--host", "--tls-cert", "--tls-key", "--tls-client-ca")
IN_IMAGE = Names("CMB_ADDRESS", "CMB_SERVER_CERT", "CMB_SERVER_KEY", "CMB_SERVER_CLIENT_CA")


@dataclass(frozen=True)
class Security:
    """How a server is protected.

    Attributes:
        host: Address that gRPC listens on.
        admin_key: Authorizes the RESTRICTED calls; None leaves them open to everyone.
        cert: PEM file of the server's certificate.
        key: PEM file of its private key.
        client_ca: PEM file of the root of the clients' certificates, which are then required.
        metrics_host: Address of the metrics.
        is_encrypted_outside: A mesh or ingress encrypts, so that no TLS is needed on a network.
        names: The settings' names in errors.

    Raises:
        InputError: For settings that would leave a server on a network open, and for unreadable files.
    """

    host: str = LOOPBACK
    admin_key: str | None = None
    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    metrics_host: str = LOOPBACK
    is_encrypted_outside: bool = False
    names: Names = OPTIONS

    def __post_init__(self) -> None:
        names = self.names
        files = {names.cert: self.cert, names.key: self.key, names.client_ca: self.client_ca}
        configured = [name for name, file in files.items() if file and _file(name, str(file))]
        if (self.cert is None) != (self.key is None) or (self.client_ca and not self.cert):
            got = f"{' and '.join(configured)} alone"
            raise InputError("tls-incomplete", "TLS", f"{names.cert} with {names.key}", got, "set both, or neither")
        is_open = not is_loopback(self.host, names.host)
        if is_open and not (self.cert or self.is_encrypted_outside):
            remedy = f"set {names.cert} and {names.key}, or listen on {LOOPBACK}"
            if names == IN_IMAGE:
                remedy = f"set {names.cert} and {names.key}, or CMB_INSECURE_NETWORK=1 where a mesh or ingress encrypts"
            raise InputError("tls-required", f"{names.host} {self.host}", "TLS on an address others can reach", "none", remedy)
        if is_open and not self.admin_key:
            expected = "an admin key for a server that others can reach"
            raise InputError("admin-key-missing", f"{names.host} {self.host}", expected, "none", f"set {ADMIN_KEY}")
        if self.admin_key is not None:
            require_key(ADMIN_KEY, self.admin_key)

    def arguments(self) -> list[str]:
        """Arguments of tritonserver. They are the only way to pass the admin key, so local users who can list processes see it."""
        found = [
            f"--grpc-address={self.host}",
            f"--http-address={LOOPBACK}",
            f"--metrics-address={self.metrics_host}",
            f"--grpc-http2-min-recv-ping-interval-without-data={PING_MS}",
        ]
        return found + self.guard(RESTRICTED if is_loopback(self.host) else (*ALSO_OVER_HTTP, *RESTRICTED))

    def guard(self, over_http: Sequence[str]) -> list[str]:
        """Arguments of tritonserver for TLS and for the calls that need the admin key: RESTRICTED over gRPC, `over_http` over HTTP.

        Without a certificate there is no TLS, without client_ca no mutual TLS, without a key no restriction.
        """
        found = []
        if self.cert and self.key:
            files = {"server-cert": self.cert, "server-key": self.key}
            files |= {"root-cert": self.client_ca} if self.client_ca else {}
            found += ["--grpc-use-ssl=true", *(f"--grpc-{name}={Path(file).absolute()}" for name, file in files.items())]
        if self.client_ca:
            found.append("--grpc-use-ssl-mutual=true")
        if self.admin_key:
            found.append(f"--grpc-restricted-protocol={','.join(RESTRICTED)}:admin-key={self.admin_key}")
            found.append(f"--http-restricted-api={','.join(over_http)}:admin-key={self.admin_key}")
        return found


def require_key(source: str, key: str) -> None:
    """Raise InputError, naming `source`, for an admin key that is too short or that Triton would split."""
    if not KEY.fullmatch(key):
        expected = f"{MIN_KEY_LENGTH} or more letters, digits, - and _"
        got = f"{len(key)} characters" + (", invalid ones among them" if INVALID_CHARACTER.search(key) else "") if key else "none"
        raise InputError("admin-key-unusable", source, expected, got, "make one with `openssl rand -hex 32`")


def local_address(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return LOOPBACK if _resolved(host).is_unspecified else host


def is_loopback(host: str, name: str = OPTIONS.host) -> bool:
    """Whether an address is reachable only from this machine. Raises InputError, naming the setting, for an unresolvable name."""
    return _resolved(host, name).is_loopback


def _resolved(host: str, name: str = OPTIONS.host) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address; a name is resolved to IPv4."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise InputError(
            "setting-invalid", f"{name} {host}", "an IPv4 address or name of this machine", str(error), "correct it"
        ) from error


@dataclass(frozen=True)
class Settings:
    """Settings of the image's server. Ports are on the address of `security`, whose admin key is never empty."""

    mode: str
    repository: Path
    security: Security
    grpc_port: int
    http_port: int
    metrics_port: int
    exit_timeout_s: int
    triton: Path
    backends: Path | None


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in a set of environment variables. Raises InputError for invalid, missing or unsafe ones."""
    value = {name: environ.get(name) or default for name, (default, _) in VARIABLES.items()}
    if value["CMB_MODE"] not in MODES:
        raise InputError("setting-invalid", "CMB_MODE", " or ".join(MODES), value["CMB_MODE"], "correct the variable")
    cert, key, client_ca = (Path(value[n]) if value[n] else None for n in (IN_IMAGE.cert, IN_IMAGE.key, IN_IMAGE.client_ca))
    # First: unsafe settings are reported before missing ones.
    security = Security(
        host=_ip_address(value["CMB_ADDRESS"]),
        admin_key=_admin_key(value),
        cert=cert,
        key=key,
        client_ca=client_ca,
        metrics_host=value["CMB_ADDRESS"],
        is_encrypted_outside=value["CMB_INSECURE_NETWORK"] == "1",
        names=IN_IMAGE,
    )
    return Settings(
        mode=value["CMB_MODE"],
        repository=_folder("CMB_REPOSITORY", value["CMB_REPOSITORY"]),
        security=security,
        grpc_port=_number("CMB_GRPC_PORT", value["CMB_GRPC_PORT"], 65535),
        http_port=_number("CMB_HTTP_PORT", value["CMB_HTTP_PORT"], 65535),
        metrics_port=_number("CMB_METRICS_PORT", value["CMB_METRICS_PORT"], 65535),
        exit_timeout_s=_number("CMB_EXIT_TIMEOUT_S", value["CMB_EXIT_TIMEOUT_S"], 3600),
        triton=_file("CMB_TRITON", value["CMB_TRITON"]),
        backends=_folder("CMB_BACKENDS", value["CMB_BACKENDS"]) if value["CMB_BACKENDS"] else None,
    )


def _admin_key(value: Mapping[str, str]) -> str:
    """The configured key; in immutable mode without one a random key, which blocks the restricted calls."""
    key, source = value[ADMIN_KEY], ADMIN_KEY
    if value["CMB_ADMIN_KEY_FILE"]:
        if key:
            raise InputError("options-conflict", source, "the key, or CMB_ADMIN_KEY_FILE", "both", "unset one of them")
        source = "CMB_ADMIN_KEY_FILE"
        key = _file(source, value[source]).read_text(encoding="utf-8").strip()
    elif not key and value["CMB_MODE"] == IMMUTABLE:
        return secrets.token_hex(32)
    require_key(source, key)
    return key


def _ip_address(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise InputError(
            "setting-invalid", "CMB_ADDRESS", "an IP address", address, "set 127.0.0.1, or 0.0.0.0 for all networks"
        ) from error
    return address


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise InputError("setting-invalid", name, f"a whole number from 1 to {most}", text, "correct the variable")
    return int(text)


def _file(name: str, text: str) -> Path:
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise InputError(
            "file-not-readable", name, "a file that can be read", f"{text}: {error.strerror}", "correct its name or permissions"
        ) from error


def _folder(name: str, text: str) -> Path:
    if not os.access(text, os.R_OK | os.X_OK) or not Path(text).is_dir():
        raise InputError("setting-invalid", name, "a folder that can be read", text, "mount it, readable to this user")
    return Path(text)
