"""gRPC connections to a server: TLS, admin key, message sizes, and errors of failed connections.

The environment configures all commands:
CMB_TLS_CA: file with the root certificate(s) of the server's; its presence enables TLS.
CMB_TLS_CERT, CMB_TLS_KEY: files with the client's certificate and key, for servers that require them (mutual TLS).
CMB_TLS_NAME: the name in the server's certificate, if it differs from the address.
CMB_ADMIN_KEY: authorizes calls that a server restricts (loading models, shared memory).
Addresses override it: grpcs://HOST:PORT uses TLS, grpc://HOST:PORT does not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from cmb_models.client.contract import ADMIN_KEY, PLAIN, SECURE
from cmb_models.errors import InputError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

CA, CERT, KEY, NAME = "CMB_TLS_CA", "CMB_TLS_CERT", "CMB_TLS_KEY", "CMB_TLS_NAME"
ADMIN_HEADER = "triton-grpc-protocol-admin-key"  # Triton's prefix and the name given to --grpc-restricted-protocol
MAX_BYTES = 2**31 - 1  # gRPC's limit for a message
KEEP_ALIVE_MS = 60_000  # detects dead connections during a request, keeps firewalls open, and is rare enough for servers


@dataclass(frozen=True)
class Tls:
    """PEM files of a TLS connection. ca: None for gRPC's default roots. cert, key: the client's, both or neither.

    name: the name in the server's certificate, None if equal to the address.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            got = f"only {CERT if self.cert else KEY}"
            raise InputError(
                "tls-incomplete", "client certificate", f"both {CERT} and {KEY}, or neither", got, "set the other one too"
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Channel credentials. Raises InputError for a file that cannot be read or is not PEM."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(CA, self.ca), private_key=_pem(KEY, self.key), certificate_chain=_pem(CERT, self.cert)
        )


def tls_from_environment() -> Tls | None:
    """TLS settings of the environment; None without TLS. Raises InputError if only CMB_TLS_CA is missing."""
    ca, cert, key = (Path(value) if (value := os.environ.get(name)) else None for name in (CA, CERT, KEY))
    if ca is None and (cert or key):
        raise InputError(
            "tls-incomplete", "TLS", f"{CA} with {CERT} and {KEY}", "none", f"set {CA} to the root certificate of the server's"
        )
    return Tls(ca, cert, key, os.environ.get(NAME) or None) if ca else None


def connect(url: str, tls: Tls | None = None) -> InferenceServerClient:
    """Create Triton's client for a server, to administer it; nothing is sent yet. Needs the `server` extra.

    Args:
        url: HOST:PORT, optionally with the prefix grpc:// or grpcs://.
        tls: Certificates for an address without prefix; if None, the environment decides.

    Raises:
        InputError: If a certificate file is not usable.
    """
    from tritonclient.grpc import InferenceServerClient

    address, tls = endpoint(url, tls)
    return InferenceServerClient(address, creds=tls.credentials() if tls else None, channel_args=_options(tls))


def channel(url: str, tls: Tls | None = None) -> grpc.Channel:
    """Create a gRPC channel to a server; nothing is sent yet. Arguments and errors as of `connect`."""
    address, tls = endpoint(url, tls)
    if tls is None:
        return grpc.insecure_channel(address, options=_options(tls))
    return grpc.secure_channel(address, tls.credentials(), options=_options(tls))


def _options(tls: Tls | None) -> list[tuple[str, int | str]]:
    target_name = [("grpc.ssl_target_name_override", tls.name)] if tls and tls.name else []
    return [
        ("grpc.max_send_message_length", MAX_BYTES),
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_http_proxy", 0),  # a hospital's web proxy must not carry scans
        *target_name,
    ]


def endpoint(url: str, tls: Tls | None = None) -> tuple[str, Tls | None]:
    """HOST:PORT of an address, and its TLS settings."""
    for scheme in (PLAIN, SECURE):
        if url.startswith(scheme):
            return url.removeprefix(scheme), None if scheme == PLAIN else (tls or tls_from_environment() or Tls())
    return url, tls or tls_from_environment()


def admin_headers(key: str | None = None) -> dict[str, str] | None:
    """Headers for restricted calls, with `key` or else CMB_ADMIN_KEY; None without a key."""
    key = key or os.environ.get(ADMIN_KEY)
    return {ADMIN_HEADER: key} if key else None


def unreachable(error: grpc.RpcError, address: str, tls: Tls | None) -> InputError:
    """The error for a failed connection, from gRPC's message. address, tls: from `endpoint`."""
    text = f"{error.details()} {error.debug_error_string()}"
    for words, expected, got, remedy in _REASONS:
        if words in text:
            return InputError("tls-refused", address, expected, got, remedy)
    if "failed to connect" in text and any(words in text for words in ("Socket closed", "onnection reset", "roken pipe")):
        if tls is None:
            got = "a connection that it closed at once (does it speak TLS?)"
            return InputError(
                "tls-refused", address, "a server without TLS", got, f"set {CA} to the root certificate of the server's"
            )
        if tls.cert is None:
            got = "a connection that it closed at once (does it ask for a client certificate?)"
            return InputError("tls-refused", address, "a server that asks for no client certificate", got, f"set {CERT} and {KEY}")
        got = "a connection that it closed at once"
        return InputError(
            "tls-refused", address, "a server that takes this client certificate", got, f"have {CERT} signed by the server's root"
        )
    return InputError(
        "server-unreachable",
        address,
        "a server that answers",
        "no connection",
        "start one with `cmb server run`, or correct --server",
    )


_REASONS = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "a certificate from the root that is trusted",
        "one that does not come from it or has run out",
        f"set {CA} to the root certificate of the server's",
    ),
    ("Hostname Verification", "a certificate for this address", "one for another name", f"set {NAME} to the certificate's name"),
    ("WRONG_VERSION_NUMBER", "a server that speaks TLS", "one that does not", f"write {PLAIN}HOST:PORT, or unset {CA}"),
    (
        "CERTIFICATE_REQUIRED",
        "a server that asks for no client certificate",
        "one that does",
        f"set {CERT} and {KEY} to the client's certificate and key",
    ),
    (
        "UNKNOWN_CA",
        "a server that takes this client certificate",
        "one that does not know who signed it",
        f"have {CERT} signed by the root that the server trusts",
    ),
)


def _pem(name: str, file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InputError(
            "tls-file", file, f"the PEM file that {name} names", error.strerror or str(error), f"correct {name}"
        ) from error
    if b"-----BEGIN " not in content:
        raise InputError("tls-file", file, f"the PEM file that {name} names", "a file of another kind", f"correct {name}")
    return content
