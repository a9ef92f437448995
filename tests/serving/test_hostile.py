"""A server among clients that err, leave, stall and lie: each gets the reason, and the next scan its right answer."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferInput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from cmb_models.client.connection import channel, connect
from cmb_models.client.contract import AFFINE as AFFINE_TENSOR
from cmb_models.client.contract import DETECTOR, UNET, VOLUME
from cmb_models.client.grpc import Client
from cmb_models.errors import from_status
from cmb_models.release.bundle import UNET_INPUT
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.settings import Security
from cmb_models.serving.run.triton_process import running_server
from tests.support import pace
from tests.support.bundles import AFFINE, head, make_bundle, spots_found
from tests.support.fuzz import fuzz
from tests.support.refusals import REFUSALS

pytestmark = pytest.mark.serving
KEY = "a-key-for-tests-of-some-length"
WHOLE = bool(os.environ.get("CMB_EVERY_STEP"))
REQUESTS = 10_000 if WHOLE else 600
MB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of this module's own, whose admin calls need a key, with a release."""
    folder = tmp_path_factory.mktemp("hostile")
    bundle = make_bundle(folder / "bundle")
    with pytest.MonkeyPatch.context() as patch, running_server(folder / "repository", security=Security(admin_key=KEY)) as server:
        patch.setenv("CMB_ADMIN_KEY", KEY)
        deploy_bundle(bundle, 1, folder / "repository", server.grpc_url)
        patch.delenv("CMB_ADMIN_KEY")
        yield server


@pytest.fixture(autouse=True)
def lives_on(server):
    """After every test: the same process, and a scan answered right."""
    yield
    assert server.alive()
    with Client(server.grpc_url, timeout_s=pace.seconds(30)) as client:
        assert spots_found(client.detect(head())) == 3


def memory_mb(group: int) -> float:
    """Resident memory of a process group, shared pages counted in each of its processes."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            pages += int(fields[21]) if int(fields[2]) == group else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def inputs(data: np.ndarray, affine: np.ndarray) -> list[InferInput]:
    made = []
    for tensor, array, kind in ((VOLUME, data, "FP32"), (AFFINE_TENSOR, affine, "FP64")):
        made.append(InferInput(tensor.name, array.shape, kind))
        made[-1].set_data_from_numpy(np.ascontiguousarray(array, dtype=tensor.dtype))
    return made


@pytest.mark.parametrize("case", REFUSALS)
def test_table_of_refusals(server, case):
    data, affine, code, words = REFUSALS[case]
    with contextlib.closing(connect(server.grpc_url)) as client, pytest.raises(InferenceServerException) as refusal:
        client.infer(DETECTOR, inputs(np.asarray(data), affine), client_timeout=pace.seconds(30))
    assert "INVALID_ARGUMENT" in refusal.value.status()
    error = from_status(refusal.value.message(), "scan")
    assert error.code == code and words in str(error)


def wrong_type(message):
    message.inputs[0].datatype = "INT32"


def two_dimensions(message):
    message.inputs[0].shape[:] = [80, 80 * 32]


def negative_extent(message):
    message.inputs[0].shape[0] = -80


def overflowing_shape(message):
    message.inputs[0].shape[:] = [2**62, 2**62, 4]


def too_few_bytes(message):
    message.raw_input_contents[0] = message.raw_input_contents[0][:-4]


def without_affine(message):
    del message.inputs[1], message.raw_input_contents[1]


def affine_of_nine(message):
    message.inputs[1].shape[:] = [3, 3]
    message.raw_input_contents[1] = np.eye(3).tobytes()


def unknown_output(message):
    message.outputs.add(name="diagnosis")


def shared_memory_that_is_not_there(message):
    message.inputs[0].parameters["shared_memory_region"].string_param = "none"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 80 * 80 * 32 * 4
    del message.raw_input_contents[:]


def other_release(message):
    message.model_version = "7"


def missing_phase(message):
    message.inputs.add(name="phase", datatype="FP32", shape=[2, 2, 2])
    message.raw_input_contents.append(bytes(32))


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (wrong_type, "INVALID_ARGUMENT", "expected 'FP32'|FP32"),
        (two_dimensions, "INVALID_ARGUMENT", "unexpected shape"),
        (negative_extent, "INVALID_ARGUMENT", "Expected -819200, got 819200"),
        (overflowing_shape, "INVALID_ARGUMENT|RESOURCE_EXHAUSTED", "."),
        (too_few_bytes, "INVALID_ARGUMENT", "byte size"),
        (without_affine, "INVALID_ARGUMENT", "expected 2 inputs but got 1|missing"),
        (affine_of_nine, "INVALID_ARGUMENT", "unexpected shape"),
        (unknown_output, "INVALID_ARGUMENT", "unexpected inference output 'diagnosis'"),
        (shared_memory_that_is_not_there, "NOT_FOUND|INVALID_ARGUMENT", "shared memory region"),
        (other_release, "NOT_FOUND|UNAVAILABLE|INVALID_ARGUMENT", "version|7"),
        (missing_phase, "INVALID_ARGUMENT", "expected 2 inputs but got 3|unexpected inference input 'phase'"),
    ],
)
def test_message_that_breaks_the_contract_is_refused_in_words(server, fault, status, words):
    scan = head()
    message = service_pb2.ModelInferRequest(model_name=DETECTOR)
    for name, kind, array in (("volume", "FP32", scan.data), ("affine", "FP64", scan.affine)):
        message.inputs.add(name=name, datatype=kind, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    fault(message)
    with contextlib.closing(channel(server.grpc_url)) as line, pytest.raises(grpc.RpcError, match=words) as refusal:
        service_pb2_grpc.GRPCInferenceServiceStub(line).ModelInfer(message, timeout=30)
    assert refusal.value.code().name in status.split("|")


def test_fuzzed_requests_are_refused_in_words_and_leave_nothing_behind(server):
    """600, or 10,000 with CMB_EVERY_STEP set. A failure names the request by its outcome; tests/support/fuzz.py sends it again."""
    fuzz(server.grpc_url, 200, 1, server.http_url)  # warm-up: threads and pools grow to what they need
    before = memory_mb(server.pid)
    outcomes = fuzz(server.grpc_url, REQUESTS, 2, server.http_url)
    bad = {outcome: n for outcome, n in outcomes.items() if ":" in outcome or outcome.startswith("wordless")}
    assert not bad
    assert outcomes["INVALID_ARGUMENT"] > REQUESTS / 3
    assert outcomes["answered"] > 0
    assert memory_mb(server.pid) < 1.05 * before + 5


def test_cancelled_requests(server):
    with contextlib.closing(connect(server.grpc_url)) as client:
        for n in range(20):
            done = threading.Event()
            call = client.async_infer(DETECTOR, inputs(head().data, AFFINE), callback=lambda result, error, done=done: done.set())
            time.sleep(0.01 * n)
            call.cancel()
            assert done.wait(pace.seconds(30))


def test_scans_of_clients_that_gave_up_are_not_computed(server):
    """Twelve of them wait when they are cancelled; the network does not run for them before the next caller's scan.

    A step of an ensemble learns from Triton only what was cancelled before the step was queued, so that the first step runs.
    """
    scan = head(shape=(192, 192, 64))
    with contextlib.closing(connect(server.grpc_url)) as client, Client(server.grpc_url, timeout_s=pace.seconds(30)) as caller:

        def computed_ns() -> int:
            (model,) = client.get_inference_statistics(UNET).model_stats
            return model.inference_stats.compute_infer.ns

        start = computed_ns()
        caller.detect(scan)
        one = computed_ns() - start
        done = [threading.Event() for _ in range(12)]
        calls = [
            client.async_infer(DETECTOR, inputs(scan.data, AFFINE), callback=lambda result, error, event=event: event.set())
            for event in done
        ]
        time.sleep(0.1)
        for call in calls:
            call.cancel()
        assert all(event.wait(pace.seconds(30)) for event in done)
        start = computed_ns()
        caller.detect(head())
        after = computed_ns() - start
        start = computed_ns()
        caller.detect(scan)
        one = max(one, computed_ns() - start)  # the machine may have been busier since
        assert after < 5 * one


def test_idle_connections(server):
    """200 on gRPC, half of them in the middle of a preface, and 100 on HTTP in the middle of a header."""
    preface, header = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v2 HTTP/1.1\r\nA"
    starts = [(server.grpc_url, b""), (server.grpc_url, preface), (server.http_url, header)]
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            for url, start in starts:
                host, port = url.split(":")
                line = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
                line.sendall(start)
        with Client(server.grpc_url, timeout_s=pace.seconds(30)) as client:
            began = time.monotonic()
            assert client.detect(head()).release == 1
            assert time.monotonic() - began < pace.seconds(10)


class Stalling:
    """A proxy on loopback that passes on what a client sends, and reads of the server's answers only the first bytes."""

    def __init__(self, url: str, passed_bytes: int) -> None:
        host, port = url.split(":")
        self._listener, self._passed = socket.create_server(("127.0.0.1", 0)), passed_bytes
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = socket.create_connection((host, int(port)))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._client, _ = self._listener.accept()
        threading.Thread(target=self._back, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                self._server.sendall(data)

    def _back(self) -> None:
        with contextlib.suppress(OSError):
            while self._passed > 0 and (data := self._server.recv(min(4096, self._passed))):
                self._passed -= len(data)
                self._client.sendall(data)

    def close(self) -> None:
        for line in (self._client, self._server, self._listener):
            line.close()


def test_reader_that_stops_reading_keeps_nobody_waiting(server):
    """Its answer, 16 MB of heatmap, stays in the server until its deadline; others are answered meanwhile."""
    image = np.zeros((1, 1, 160, 160, 160), dtype=np.float32)
    with contextlib.closing(Stalling(server.grpc_url, 100_000)) as slow, contextlib.closing(connect(slow.url)) as stuck:
        tensor = InferInput(UNET_INPUT, image.shape, "FP32")
        tensor.set_data_from_numpy(image)
        faults = []
        done = threading.Event()
        stuck.async_infer(UNET, [tensor], lambda result, error: (faults.append(error), done.set()), client_timeout=pace.seconds(8))
        time.sleep(pace.seconds(3))
        assert not done.is_set()
        with Client(server.grpc_url, timeout_s=pace.seconds(30)) as client:
            assert client.detect(head()).release == 1
        assert done.wait(pace.seconds(20))
    assert "DEADLINE_EXCEEDED" in faults[0].status()


@pytest.mark.ci  # gigabytes and half a minute
def test_message_of_a_gigabyte(server):
    data = np.zeros((650, 650, 650), dtype=np.float32)
    with contextlib.closing(connect(server.grpc_url)) as client, pytest.raises(InferenceServerException) as refusal:
        client.infer(DETECTOR, inputs(data, np.diag([0.3, 0.3, 0.3, 1])), client_timeout=pace.seconds(120))
    assert "INVALID_ARGUMENT" in refusal.value.status()
    assert "at most 134 million voxels, got 275 million (650x650x650)" in refusal.value.message()


@pytest.mark.parametrize("shape", [(1, 1, 4, 0, 4), pytest.param((1, 1, 350, 350, 350), marks=pytest.mark.ci)])
def test_network_asked_directly_for_more_or_less_than_a_scan(server, shape):
    tensor = InferInput(UNET_INPUT, shape, "FP32")
    tensor.set_data_from_numpy(np.zeros(shape, dtype=np.float32))
    with contextlib.closing(connect(server.grpc_url)) as client, pytest.raises(InferenceServerException) as refusal:
        client.infer(UNET, [tensor], client_timeout=pace.seconds(60))
    assert "INVALID_ARGUMENT" in refusal.value.status()
    assert "send scans to the detector" in refusal.value.message()
