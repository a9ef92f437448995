"""Scans handed to a server of this machine in shared memory: the same answers, and no region outlives its request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from cmb_models.client.connection import channel, connect
from cmb_models.client.contract import AFFINE, DETECTOR, VOLUME
from cmb_models.client.grpc import Client
from cmb_models.client.kserve import Service
from cmb_models.client.shared_memory import _register, shared_request
from cmb_models.volume import Volume
from tests.support.bundles import head
from tests.support.refused import refused

pytestmark = pytest.mark.serving


def regions() -> set[str]:
    return {p.name for p in Path("/dev/shm").glob("cmb-scan-*")}


@pytest.fixture
def neighbour(served):
    before = regions()
    with Client(served.server.grpc_url, shared_memory=True) as client:
        yield client
    assert regions() <= before, "a region was left"


def test_answers_are_those_of_a_message(served, neighbour):
    scans = [head(), head(seed=5, shape=(60, 90, 40))]
    scans.append(Volume(np.asfortranarray(scans[0].data[::-1]), scans[0].affine))
    for scan in scans:
        assert neighbour.detect(scan) == served.client.detect(scan)


def test_a_refused_scan_leaves_nothing_and_the_next_is_answered(served, neighbour):
    scan = head()
    with refused("scan-not-finite", got="NaN"):
        neighbour.detect(Volume(np.full_like(scan.data, np.nan), scan.affine), case="bad")
    assert neighbour.detect(scan) == served.client.detect(scan)


def test_many_at_once_do_not_mix(served, neighbour):
    scans = [head(blobs_mm=[(5.0 * n - 10, 0, 0)], seed=n) for n in range(4)]
    alone = [served.client.detect(scan) for scan in scans]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: neighbour.detect(scans[n % 4]), range(12))) == [alone[n % 4] for n in range(12)]


def test_memory_of_a_request_that_was_given_up_is_not_taken_from_the_server(served):
    scan = head(shape=(160, 160, 60))
    arrays = {VOLUME: np.ascontiguousarray(scan.data), AFFINE: np.ascontiguousarray(scan.affine)}
    with connect(served.server.grpc_url) as client, channel(served.server.grpc_url) as connection:
        service = Service(connection)
        before = set(client.get_system_shared_memory_status().regions)
        with (
            pytest.raises(grpc.RpcError, match="Deadline"),
            shared_request(service, DETECTOR, arrays, served.server.grpc_url, 10) as request,
        ):
            service.send("ModelInfer", request, 0.02)
        (kept,) = set(client.get_system_shared_memory_status().regions) - before
        assert kept not in regions(), "its name is gone, so that it ends with the server"
        assert served.client.detect(head()).candidates


def test_a_server_that_cannot_open_the_memory_is_told_of(served):
    with channel(served.server.grpc_url) as connection, refused("shared-memory-unavailable"):
        _register(Service(connection), "cmb-of-another-machine", 64, served.server.grpc_url, 10)
