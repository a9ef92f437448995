"""examples/wire/: clients that use generated stubs and no code of this project get what the Python client gets."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import nibabel as nib
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

import cmb_models
from cmb_models.client.contract import DETECTOR
from cmb_models.errors import InputError
from cmb_models.io.nifti import write_volume
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.volume import Volume
from tests.support import pace
from tests.support.bundles import BLOBS_MM, head, head_phase, make_bundle
from tests.support.imports import ROOT
from tests.support.kserve import MAX_BYTES, kserve
from tests.support.refusals import REFUSALS

pytestmark = pytest.mark.serving
EXAMPLES = ROOT / "examples/wire"
NPM_OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT")
PIP_OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")


@dataclass(frozen=True)
class Example:
    """A program that takes HOST:PORT, a scan and for some releases its phase image, and the folder it runs in."""

    command: tuple[str, ...]
    folder: Path

    def start(self, *arguments: object) -> subprocess.Popen:
        """The running program."""
        command = [*self.command, *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.folder, text=True, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: object) -> tuple[int, dict]:
        """Exit status and the JSON on stdout."""
        return finished(self.start(*arguments))


def finished(process: subprocess.Popen) -> tuple[int, dict]:
    """Exit status and JSON of a program that was started."""
    output, errors = process.communicate(timeout=120)
    assert output, errors
    return process.returncode, json.loads(output)


def set_up(command: list[str], folder: Path) -> None:
    """Install an example's pinned packages; skip where their registry is not reachable."""
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=280)
    if done.returncode and any(sign in done.stderr for sign in NPM_OFFLINE + PIP_OFFLINE):
        pytest.skip(f"the registry of {command[0]} is not reachable: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def python_stubs(examples: Path) -> Example:
    """In an environment that has neither this project nor tritonclient."""
    folder, python = examples / "python_stubs", str(examples / "environment/bin/python")
    subprocess.run([sys.executable, "-m", "venv", str(examples / "environment")], check=True)
    set_up([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"], folder)
    protocol = ("../proto/grpc_service.proto", "../proto/model_config.proto")
    generate = [python, "-m", "grpc_tools.protoc", "-I../proto", "--python_out=.", "--grpc_python_out=.", *protocol]
    subprocess.run(generate, cwd=folder, check=True)
    return Example((python, "detect.py"), folder)


def node(examples: Path) -> Example:
    programs = [shutil.which(name) for name in ("node", "npm")]
    if None in programs:
        pytest.skip("needs node and npm")
    set_up([programs[1], "ci", "--no-audit", "--no-fund"], examples / "node")
    return Example((programs[0], "detect.js"), examples / "node")


@pytest.fixture(scope="module", params=[python_stubs, node], ids=["python_stubs", "node"])
def example(request, tmp_path_factory) -> Example:
    examples = tmp_path_factory.mktemp("examples") / "wire"
    shutil.copytree(EXAMPLES, examples, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    return request.param(examples)


def as_printed(result: cmb_models.DetectionResult) -> dict:
    """A result of the Python client in the form that the examples print."""
    rows = [
        {
            "centre_mm": list(d.position_mm),
            "index": list(d.index),
            "diameter_mm": d.diameter_mm,
            "score": d.score,
            "stage1_score": d.stage1_score,
            "stage2_score": d.stage2_score,
        }
        for d in result.detections
    ]
    return {
        "release": result.release,
        "manifest_sha256": result.manifest_sha256,
        "threshold": result.threshold,
        "detections": rows,
    }


def plain(path: Path, dtype=np.float32, slope: float | None = None, little: bool = True, sform: bool = True) -> Path:
    """`head()` as a scanner's converter may write it."""
    scan = head()
    header = nib.Nifti1Header(endianness="<" if little else ">")
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    values = scan.data if slope is None else np.rint(scan.data / slope)
    image = nib.Nifti1Image(values.astype(dtype), scan.affine, header)
    image.set_qform(scan.affine, code=1)
    image.set_sform(scan.affine if sform else None, code=1 if sform else 0)
    if slope is not None:
        image.header.set_slope_inter(slope, 2.0)
    nib.save(image, path)
    return path


OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, -0.1) @ np.diag([-1.0, -1.0, 2.0]), (41.3, 38.2, -30.1))
SCANS: dict[str, Callable[[Path], Path]] = {
    "float32": lambda folder: plain(folder / "scan.nii.gz"),
    "not compressed": lambda folder: plain(folder / "scan.nii"),
    "int16": lambda folder: plain(folder / "scan.nii.gz", np.int16),
    "int16, scaled": lambda folder: plain(folder / "scan.nii.gz", np.int16, slope=0.25),
    "big-endian uint16": lambda folder: plain(folder / "scan.nii", np.uint16, little=False),
    "qform alone": lambda folder: plain(folder / "scan.nii.gz", sform=False),
}


@pytest.mark.parametrize("scan", SCANS)
def test_same_detections_as_the_python_client(served, example, tmp_path, scan):
    path = SCANS[scan](tmp_path)
    with cmb_models.connect(served.server.grpc_url) as client:
        expected = as_printed(client.detect(path))
    assert len(expected["detections"]) == len(BLOBS_MM)
    assert example.run(served.server.grpc_url, path) == (0, expected)


def test_oblique_scan(served, example, tmp_path):
    """Three unequal extents and an oblique, left-handed affine: an exchange of axes or of rows and columns would show."""
    blob_mm = OBLIQUE[:3, :3] @ (30, 45, 12) + OBLIQUE[:3, 3]
    scan = head((blob_mm,), OBLIQUE, (84, 78, 30))
    path = tmp_path / "scan.nii.gz"
    write_volume(path, scan)
    with cmb_models.connect(served.server.grpc_url) as client:
        expected = as_printed(client.detect(path))
    status, found = example.run(served.server.grpc_url, path)
    assert expected["detections"] and (status, found) == (0, expected)
    np.testing.assert_allclose(found["detections"][0]["centre_mm"], blob_mm, atol=2)


@pytest.mark.parametrize("case", ["one NaN", "all air", "inverted", "slab", "voxels of kilometres"])
def test_same_error_code_for_a_rejected_scan(served, example, tmp_path, case):
    data, affine, code, _ = REFUSALS[case]
    path = tmp_path / "scan.nii.gz"
    write_volume(path, Volume(np.asarray(data), affine))
    with cmb_models.connect(served.server.grpc_url) as client, pytest.raises(InputError) as rejection:
        client.detect(path)
    status, answer = example.run(served.server.grpc_url, path)
    assert (status, answer["status"]) == (1, "INVALID_ARGUMENT")
    assert answer["code"] == rejection.value.code == code


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def forwarded(port: int, url: str) -> Iterator[None]:
    """Connections to a port of loopback reach the server at `url` within the block."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, server = listener.accept()[0], socket.create_connection((host, int(server_port)))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    host, server_port = url.split(":")
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield


def test_server_that_answers_later(served, example, tmp_path):
    """The program is started first and sends its request again."""
    path, port = plain(tmp_path / "scan.nii.gz"), free_port()
    with cmb_models.connect(served.server.grpc_url) as client:
        expected = as_printed(client.detect(path))
    process = example.start(f"127.0.0.1:{port}", path)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=pace.seconds(3))
    with forwarded(port, served.server.grpc_url):
        assert finished(process) == (0, expected)


def test_server_without_a_release_at_first(served, example, tmp_path):
    """NOT_FOUND to the first two requests for the metadata and to the first scan; then a server with a release."""
    path, refusals = plain(tmp_path / "scan.nii.gz"), {"ModelMetadata": 2, "ModelInfer": 1}
    with cmb_models.connect(served.server.grpc_url) as client:
        expected = as_printed(client.detect(path))
    options = [("grpc.max_send_message_length", MAX_BYTES)]
    with grpc.insecure_channel(served.server.grpc_url, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def answer(call, request, context):
            if refusals[call]:
                refusals[call] -= 1
                context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{DETECTOR}'")
            return getattr(stub, call)(request, timeout=120)

        with kserve({call: partial(answer, call) for call in refusals}) as url:
            assert example.run(url, path) == (0, expected)
    assert not any(refusals.values())


def test_statuses_of_the_contract(served):
    """Those that the table of errors and retries names, but for INVALID_ARGUMENT (test_hostile.py) and INTERNAL."""
    scan = head()
    message = service_pb2.ModelInferRequest(model_name=DETECTOR)
    for name, kind, array in (("volume", "FP32", scan.data), ("affine", "FP64", scan.affine)):
        message.inputs.add(name=name, datatype=kind, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    other = service_pb2.ModelInferRequest()
    other.CopyFrom(message)
    other.model_name = "no_such_model"
    server, nowhere = served.server.grpc_url, f"127.0.0.1:{free_port()}"
    small = (("grpc.max_send_message_length", 1000),)
    for status, address, options, request, timeout_s in (
        ("NOT_FOUND", server, (), other, 30),
        ("UNAVAILABLE", nowhere, (), message, 30),
        ("DEADLINE_EXCEEDED", server, (), message, 0.01),
        ("RESOURCE_EXHAUSTED", server, small, message, 30),
    ):
        with grpc.insecure_channel(address, options=options) as channel, pytest.raises(grpc.RpcError) as failure:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout_s)
        assert failure.value.code().name == status


def test_release_that_uses_phase(example, tmp_path):
    scan, phase = tmp_path / "sub-01_swi.nii.gz", tmp_path / "sub-01_phase.nii.gz"
    write_volume(scan, head())
    write_volume(phase, head_phase())
    bundle = make_bundle(tmp_path / "bundle", phase=True)
    with running_server(tmp_path / "repository") as server:
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        with cmb_models.connect(server.grpc_url) as client:
            expected = as_printed(client.detect(scan, phase))
        assert expected["detections"]
        assert example.run(server.grpc_url, scan, phase) == (0, expected)
