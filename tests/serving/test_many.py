"""`Client.detect_many`: answers in order, rejected scans among them, and a server that is away for a while."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from cmb_models.client import many
from cmb_models.client.grpc import Client
from cmb_models.io.nifti import write_volume
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.volume import Volume
from tests.support.bundles import head, make_bundle
from tests.support.refused import refused

pytestmark = [pytest.mark.serving, pytest.mark.timeout(180)]
EMPTY = Volume(np.full((64, 64, 24), 5, np.float32), np.eye(4))


def scans(tmp_path):
    """A volume, a file, an unusable scan, a file that does not exist, and a volume."""
    write_volume(tmp_path / "a.nii.gz", head(seed=1))
    return [head(), tmp_path / "a.nii.gz", EMPTY, tmp_path / "none.nii", head(seed=2)]


def check(answers, asked, client) -> None:
    assert [a.number for a in answers] == [0, 1, 2, 3, 4] and [a.scan for a in answers] == asked
    assert [a.error.code if a.error else "" for a in answers] == ["", "", "scan-constant", "file-not-found", ""]
    for answer in (answers[0], answers[1], answers[4]):
        assert answer.result == client.detect(answer.scan) and answer.result.volume is None


def test_answers_come_in_order_with_the_errors_of_rejected_scans(served, tmp_path):
    asked = scans(tmp_path)
    check(list(served.client.detect_many(asked, at_a_time=3)), asked, served.client)
    assert list(served.client.detect_many([])) == []
    with refused("setting-invalid", case="at_a_time"):
        served.client.detect_many(asked, at_a_time=0)


def test_the_same_in_an_event_loop_and_a_cancelled_task_ends(served, tmp_path):
    asked = scans(tmp_path)

    async def collect():
        return [a async for a in served.client.detect_many_async(asked)]

    check(asyncio.run(collect()), asked, served.client)
    taken = []

    async def endless():
        def forever():
            while True:
                taken.append(1)
                yield head()

        async for _ in served.client.detect_many_async(forever()):
            pass

    async def cancelled():
        task = asyncio.create_task(endless())
        while len(taken) < 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    count = len(taken)
    time.sleep(0.5)
    assert len(taken) == count


def test_an_event_loop_goes_on_while_the_rest_is_left(served, monkeypatch):
    detect, pauses = Client.detect, []

    def slow(self, *scan, **names):
        time.sleep(1)
        return detect(self, *scan, **names)

    monkeypatch.setattr(Client, "detect", slow)

    async def beat():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            pauses.append(time.monotonic() - began)

    async def leave():
        beating = asyncio.create_task(beat())
        answers = served.client.detect_many_async([head()] * 4)
        async for _ in answers:
            break
        await answers.aclose()
        beating.cancel()

    asyncio.run(leave())
    assert max(pauses) < 0.7


def test_memory_that_does_not_suffice_for_one_scan_is_its_error(served, monkeypatch):
    detect = Client.detect

    def short(self, scan, **names):
        if scan is EMPTY:
            raise MemoryError
        return detect(self, scan, **names)

    monkeypatch.setattr(Client, "detect", short)
    first, second = served.client.detect_many([EMPTY, head()])
    assert "memory" in str(first.error) and second.result is not None


def test_scans_are_read_no_further_ahead_than_asked(served):
    taken = []

    def some():
        for number in range(6):
            taken.append(number)
            yield head()

    for answer in served.client.detect_many(some(), at_a_time=2):
        assert len(taken) <= answer.number + 2


def test_a_server_that_is_away_is_waited_for_until_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(many, "REST_S", (0.2, 0.5))
    bundle = make_bundle(tmp_path / "bundle")
    with running_server(tmp_path / "repository") as server, Client(server.grpc_url) as client:
        answers = client.detect_many([head(), head(seed=1)], deadline_s=120)
        deploy_bundle(bundle, 1, tmp_path / "repository", server.grpc_url)
        assert [len(a.result.candidates) > 0 for a in answers] == [True, True]
    began = time.monotonic()
    with Client("127.0.0.1:9") as client:
        (answer,) = client.detect_many([head()], deadline_s=1.5)
    assert answer.error.code == "server-unreachable" and 1 < time.monotonic() - began < 20


def test_a_failing_server_is_asked_once_more(monkeypatch, served):
    monkeypatch.setattr(many, "REST_S", (0.01, 0.01))
    detect, asked = Client.detect, []

    def fail_at_first(self, scan, *rest, **names):
        asked.append(scan)
        if len(asked) in (1, 3, 4):
            raise RuntimeError("step failed")
        return detect(self, scan, *rest, **names)

    monkeypatch.setattr(Client, "detect", fail_at_first)
    first, second = served.client.detect_many([head(), head(seed=1)], at_a_time=1)
    assert first.result is not None and isinstance(second.error, RuntimeError) and len(asked) == 4
