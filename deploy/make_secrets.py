"""Generate the secrets that compose.yaml mounts: `python3 make_secrets.py [FOLDER]`. Existing files are kept.

Only the owner can read the folder; the files inside are world-readable, since each container runs as another user. The certificate
is self-signed for this machine: replace it by your hospital's (tls_cert, tls_key).
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from pathlib import Path


def contents() -> dict[str, str]:
    """New secrets by file name, without the certificate."""
    access, secret = secrets.token_hex(10), secrets.token_hex(24)
    identity = {"name": "mlflow", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ["Admin"]}
    rclone = {"type": "s3", "provider": "Other", "endpoint": "http://s3:8333", "access_key_id": access, "secret_access_key": secret}
    return {
        "admin_key": secrets.token_hex(32),
        "postgres_password": secrets.token_urlsafe(24),
        "optuna_password": secrets.token_urlsafe(24),
        "s3_access_key": access,
        "s3_secret_key": secret,
        "s3_identities": json.dumps({"identities": [identity]}),
        "rclone": "[store]\n" + "".join(f"{k} = {v}\n" for k, v in rclone.items()),
    }


def certificate(folder: Path) -> None:
    """tls_cert and tls_key for this machine's name and loopback, by the openssl program, for a year."""
    names = f"subjectAltName=DNS:{socket.gethostname()},DNS:localhost,IP:127.0.0.1"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "365"]
    files = ["-keyout", str(folder / "tls_key"), "-out", str(folder / "tls_cert")]
    subprocess.run([*request, "-subj", "/CN=cmb-models", "-addext", names, *files], check=True, capture_output=True)


def main(folder: Path) -> int:
    """Write and list the missing files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    generated = contents()
    linked = ("s3_access_key", "s3_secret_key", "s3_identities", "rclone")  # share the same keys: all or none
    if any((folder / name).exists() for name in linked):
        for name in linked:
            if not (folder / name).exists():
                sys.stderr.write(f"error: {folder / name} is missing while others of {', '.join(linked)} exist; restore it\n")
                return 2
            del generated[name]
    new = [name for name in generated if not (folder / name).exists()]
    for name in new:
        (folder / name).write_text(generated[name], encoding="utf-8")
    if not (folder / "tls_cert").exists() and not (folder / "tls_key").exists():
        certificate(folder)
        new += ["tls_cert", "tls_key"]
    for file in folder.iterdir():
        file.chmod(0o644)
    sys.stdout.write(f"{folder}: generated {', '.join(new) or 'nothing, all files exist'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "secrets"))
