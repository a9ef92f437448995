"""Who may reach a server and what they may do there, as arguments of tritonserver. Standard library alone.

On loopback: no TLS, and an admin key all the same, since loading a model runs its code and other users of the machine reach
loopback too. Anywhere else: TLS and an admin key, or no start. HTTP has no TLS in Triton, so it stays on loopback.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.errors import InputError

LOOPBACK = "127.0.0.1"
KEY_FILE = "admin.key"  # in the state folder, for its owner alone
ADMIN_KEY = "CMB_ADMIN_KEY"
PLAIN, SECURE = "grpc://", "grpcs://"  # before an address, as client/connection.py reads it
LEAST_KEY = 16  # characters: a random key has 43, a word that can be guessed fewer
KEY = re.compile(rf"[A-Za-z0-9_-]{{{LEAST_KEY},}}")  # Triton splits its argument at other signs
OTHERS = re.compile(r"[^A-Za-z0-9_-]")
# Calls that change a server or read its host's memory and files. Left open: health, metadata, model-config (which says the
# release), statistics (counts, as in the metrics) and inference.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
# Beside them over HTTP once gRPC is on a network: who has no certificate shall not go in by the side door.
ALSO_OVER_HTTP = ("inference", "model-config")
PING_MS = 10_000  # clients may ask this often whether the line lives; they do every minute (client/connection.py)


@dataclass(frozen=True)
class Security:
    """How a server is protected.

    host: address that gRPC listens on. admin_key: opens RESTRICTED; None leaves them to everybody. cert, key: the server's PEM
    files. client_ca: root of the clients' certificates, which are then asked for. metrics_host: address of the metrics.
    Raises InputError for what would leave a server on a network open.
    """

    host: str = LOOPBACK
    admin_key: str | None = None
    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    metrics_host: str = LOOPBACK

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError(
                "tls-incomplete", "server certificate", "a certificate and its key, or neither", "one of them", "name both files"
            )
        if self.client_ca and not self.cert:
            remedy = "name them with --tls-cert and --tls-key"
            raise InputError("tls-incomplete", "--tls-client-ca", "the server's own certificate and key beside it", "none", remedy)
        if not is_loopback(self.host) and not self.cert:
            remedy = "name --tls-cert and --tls-key, or leave --host out"
            raise InputError(
                "tls-required", f"--host {self.host}", "a certificate and key for a server that others can reach", "none", remedy
            )
        if not is_loopback(self.host) and not self.admin_key:
            remedy = f"set {ADMIN_KEY}"
            raise InputError(
                "admin-key-missing", f"--host {self.host}", "an admin key for a server that others can reach", "none", remedy
            )
        if self.admin_key is not None and not KEY.fullmatch(self.admin_key):
            expected = f"{LEAST_KEY} or more letters, digits, - and _"
            got = f"{len(self.admin_key)} characters" + (", others among them" if OTHERS.search(self.admin_key) else "")
            raise InputError("admin-key-unusable", ADMIN_KEY, expected, got, "make one with `openssl rand -hex 32`")
        for file in filter(None, (self.cert, self.key, self.client_ca)):
            if not os.access(file, os.R_OK):
                raise InputError("tls-file", file, "a PEM file that can be read", "none", "correct its name or its permissions")

    def arguments(self) -> list[str]:
        """For tritonserver, which takes the admin key no other way: whoever may list this machine's processes reads it there."""
        found = [
            f"--grpc-address={self.host}",
            f"--http-address={LOOPBACK}",
            f"--metrics-address={self.metrics_host}",
            f"--grpc-http2-min-recv-ping-interval-without-data={PING_MS}",
        ]
        over_http = RESTRICTED if is_loopback(self.host) else (*ALSO_OVER_HTTP, *RESTRICTED)
        return found + guard(self.cert, self.key, self.client_ca, self.admin_key, over_http)


def guard(
    cert: Path | None, key: Path | None, client_ca: Path | None, admin_key: str | None, over_http: Sequence[str]
) -> list[str]:
    """tritonserver's arguments for TLS and for what the admin key opens: RESTRICTED over gRPC, `over_http` over HTTP.

    Without a certificate there is no TLS, without a client_ca no mutual TLS, without a key everything is open.
    """
    found = []
    if cert:
        files = {"server-cert": cert, "server-key": key} | ({"root-cert": client_ca} if client_ca else {})
        found += ["--grpc-use-ssl=true", *(f"--grpc-{name}={Path(file).absolute()}" for name, file in files.items())]
    if client_ca:
        found.append("--grpc-use-ssl-mutual=true")
    if admin_key:
        found.append(f"--grpc-restricted-protocol={','.join(RESTRICTED)}:admin-key={admin_key}")
        found.append(f"--http-restricted-api={','.join(over_http)}:admin-key={admin_key}")
    return found


def own_address(host: str) -> str:
    """At which this machine itself reaches what listens on `host`."""
    return LOOPBACK if ipaddress.ip_address(resolved(host)).is_unspecified else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Raises InputError for a name that nothing answers to."""
    return ipaddress.ip_address(resolved(host)).is_loopback


def resolved(host: str) -> str:
    """The IPv4 address of a name or address."""
    try:
        return socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]
    except OSError as error:
        raise InputError(
            "setting-invalid", f"--host {host}", "an IPv4 address or name of this machine", str(error), "correct it"
        ) from error


def state_key(state: Path) -> str:
    """The admin key of a server with this state folder: CMB_ADMIN_KEY, else the folder's own, made at random when there is none."""
    if given := os.environ.get(ADMIN_KEY):
        return given
    if (found := kept_key(state)) is not None:
        return found
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / f".partial-{os.getpid()}-{KEY_FILE}"
    key = secrets.token_urlsafe(32)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(key)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, state / KEY_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return key


def kept_key(state: Path) -> str | None:
    """The key that a state folder keeps; None without one. Raises InputError for one that others may read or that is not ours."""
    file = Path(state) / KEY_FILE
    try:
        mode = file.stat().st_mode
        if mode & 0o077:
            raise InputError(
                "key-exposed", file, "a key that its owner alone may read", f"mode {mode & 0o777:o}", f"run chmod 600 {file}"
            )
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        remedy = f"run this as the user who started the server, or set {ADMIN_KEY}"
        raise InputError("key-exposed", file, "the server's admin key", "a file of another user's", remedy) from error
