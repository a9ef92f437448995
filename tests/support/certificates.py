"""Certificates for tests: a root of one's own, and what it signs for 127.0.0.1 and localhost."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


def make_root(folder: Path) -> Certificate:
    """A root certificate in a new folder."""
    return _made(folder, None)


def make_certificate(folder: Path, root: Certificate, name: str | None = None) -> Certificate:
    """A certificate for this machine or another `name`, signed by `root`, in a new folder."""
    return _made(folder, root, name)


def _made(folder: Path, root: Certificate | None, for_name: str | None = None) -> Certificate:
    folder.mkdir(parents=True)
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
    issuer, signer = name, key
    if root is not None:
        issuer = x509.load_pem_x509_certificate(root.cert.read_bytes()).subject
        signer = serialization.load_pem_private_key(root.key.read_bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    names = [x509.DNSName(for_name)] if for_name else here
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=root is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.cert.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.write_bytes(key.private_bytes(*form))
    return made
