"""The part of fuzz.py that speaks HTTP or nothing at all: JSON that is none, headers that lie, bytes of chance on both ports."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

import numpy as np

TIMEOUT_S = 60
PATHS = (
    "/v2/models/cmb_detector/infer",
    "/v2/models/cmb_detector/versions/1/infer",
    "/v2/models/cmb_unet/infer",
    "/v2/models/none/infer",
    "/v2/models/cmb_detector/versions/99999999999999999999/infer",
    "/v2/models/cmb_detector/generate",
    "/v2/models/" + "m" * 3000 + "/infer",
    "/v2/models/%00%ff/infer",
    "/v2/models/cmb_detector/config",
    "/v2/systemsharedmemory/region/x/register",
    "/v2/repository/models/x/load",
    "/v2/health/ready",
    "/../../etc/passwd",
    "/",
)
METHODS = ("POST", "GET", "PUT", "DELETE")
STARTS = (
    b"",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"\x16\x03\x01",  # TLS
)
VALUES = (None, True, -1, 0, 2**63, 1e308, "", "☃", [], {}, [[[]]], {"a": {"b": [1]}}, [None], "FP32", [2, 2], [-1], [2**40, 2**40])


def send_http(url: str, rng: np.random.Generator) -> str:
    """One HTTP request of garbage; "http CODE", with path and words for a fault that is not reported, or "closed"."""
    path, body, headers = PATHS[int(rng.integers(len(PATHS)))], _body(rng), {}
    if rng.random() < 0.3:
        lengths = ("-1", "0", "1", "99999999999", "x", str(len(body) // 2), str(2**64))
        headers["Inference-Header-Content-Length"] = lengths[int(rng.integers(len(lengths)))]
    if rng.random() < 0.1:
        headers["Content-Encoding"] = ("gzip", "deflate", "x")[int(rng.integers(3))]
    connection = http.client.HTTPConnection(url, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request(METHODS[int(rng.choice(4, p=(0.85, 0.05, 0.05, 0.05)))], path, body, headers)
            response = connection.getresponse()
            words = response.read().decode(errors="replace")
        except TimeoutError:
            return f"HTTP none: {path[:60]}: no answer in {TIMEOUT_S} s"
        except (OSError, http.client.HTTPException):
            return "closed"
    # Triton gives JSON it cannot read a 500 where a 400 would be right, but says what is wrong with it.
    report = response.status < 500 or (len(words) > 10 and "Traceback" not in words)
    return f"http {response.status}" if report else f"HTTP {response.status}: {path[:60]}: {words[:200]}"


def _body(rng: np.random.Generator) -> bytes:
    def value():
        return VALUES[int(rng.integers(len(VALUES)))]

    kind = int(rng.integers(6))
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 2000)))
    if kind == 1:
        return b"[" * int(rng.integers(1, 5000))
    tensor = {"name": "volume", "datatype": "FP32", "shape": [2, 2, 2], "data": list(range(8))}
    affine = {"name": "affine", "datatype": "FP64", "shape": [4, 4], "data": np.eye(4).tolist()}
    whole = {"inputs": [tensor, affine], "outputs": [{"name": "score"}], "parameters": {}}
    for target in (whole, tensor, affine, whole["outputs"][0], whole["parameters"])[: kind + 1]:
        if rng.random() < 0.5:
            keys = [*target, "parameters", "x", "binary_data_size"]
            target[keys[int(rng.integers(len(keys)))]] = value()
    text = json.dumps(whole).encode()
    return text[: int(rng.integers(len(text)))] if rng.random() < 0.2 else text


def send_garbage(url: str, rng: np.random.Generator) -> str:
    """Bytes of chance, or a beginning of something right, on a port; always "closed", by them or by us."""
    host, port = url.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host.split("//")[-1], int(port)), timeout=5) as line:
        line.sendall(STARTS[int(rng.integers(len(STARTS)))] + rng.bytes(int(rng.integers(0, 3000))))
        line.settimeout(0.02)
        line.recv(1000)
    return "closed"
