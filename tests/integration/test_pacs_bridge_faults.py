"""The PACS bridge's parts at what goes wrong: late images, refusals of the PACS, a full disk, names of studies."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import threading
import time
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, AllStoragePresentationContexts, evt

from cmb_models.errors import InputError
from cmb_models.release.bundle import BundleDetector
from tests.support.bundles import head, make_bundle
from tests.support.dicom_export import write_study
from tests.support.imports import ROOT
from tests.support.refused import refused

TITLE = "PACS"


@pytest.fixture
def bridge(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples/pacs_bridge"))
    for name in ("bridge", "network", "spool"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("bridge")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    with BundleDetector(make_bundle(tmp_path_factory.mktemp("bundle") / "b")) as opened:
        yield opened


class Pacs:
    """A storage SCP that answers with the statuses given, the last one again and again. stored: modalities, in order."""

    def __init__(self, *statuses: int, without=()) -> None:
        self.statuses, self.stored = list(statuses), []
        self.entity = AE(ae_title=TITLE)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax not in without:
                self.entity.add_supported_context(context.abstract_syntax, ExplicitVRLittleEndian)
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.answer)])

    def answer(self, event) -> int:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status in (0, 0xB000):
            self.stored.append(event.dataset.Modality)
        return status


@contextmanager
def pacs_of(*statuses: int, without=()):
    pacs = Pacs(*statuses, without=without)
    try:
        yield pacs
    finally:
        pacs.server.shutdown()


@pytest.fixture
def work(bridge, detector, tmp_path):
    """Runs the bridge on a spool with two studies until `condition(outcomes)`, without waiting long for retries."""

    class Work:
        spool = bridge.Spool(tmp_path / "spool")

        def receive(self, number: int, leave_out: int = 0) -> None:
            source = tmp_path / f"in{number}"
            if not source.exists():
                write_study(source, "SIEMENS", f"p{number}", head(seed=number), np.random.default_rng(number), ("swi",))
            import pydicom

            for file in sorted(source.rglob("IM*"))[: 32 - leave_out]:
                image = pydicom.dcmread(file)
                self.spool.add(f"1.2.{number}", str(image.SOPInstanceUID), file.read_bytes())

        def outcomes(self) -> dict[str, str]:
            return {f.stem: self.spool.outcome(f.stem)["code"] for f in self.spool.done.glob("*.json")}

        def until(self, pacs, condition, detector=detector) -> None:
            ended = threading.Event()
            peer = bridge.Peer(TITLE, "127.0.0.1", pacs.server.server_address[1])

            def one(study) -> None:
                bridge.process(study, self.spool, detector, "BRIDGE", peer)

            thread = threading.Thread(target=bridge.run, args=(self.spool, one, 0.05, 3600, ended), daemon=True)
            thread.start()
            limit = time.monotonic() + 120
            while not condition(self.outcomes()):
                assert time.monotonic() < limit and thread.is_alive()
                time.sleep(0.05)
            ended.set()
            thread.join(60)

    return Work()


@pytest.fixture(autouse=True)
def quick(bridge, monkeypatch):
    monkeypatch.setattr(bridge, "RETRY_S", 0.1)


def test_results_stored_with_a_warning_are_stored(work):
    work.receive(1)
    with pacs_of(0xB000) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""})
        assert sorted(pacs.stored) == ["SEG", "SR"]


def test_a_refused_study_does_not_hold_up_the_next_one_and_may_be_sent_again(work):
    work.receive(1)
    work.receive(2)
    with pacs_of(0xA900, 0xA900, 0) as pacs:  # the first study's two objects, once
        work.until(pacs, lambda found: found == {"1.2.1": "", "1.2.2": ""})
    work.receive(3)
    with pacs_of(0xA900) as pacs:
        work.until(pacs, lambda found: found.get("1.2.3") == "result-refused")
        time.sleep(0.02)
        work.receive(3)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found["1.2.3"] == "")


def test_a_pacs_without_segmentations_has_the_report(work):
    work.receive(1)
    with pacs_of(0, without=(SegmentationStorage,)) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": "result-refused"})
        assert set(pacs.stored) == {"SR"}


def test_results_are_sent_again_without_detecting_again(work, detector):
    class Counting:
        calls = 0
        requires_phase = False
        bundle = detector.bundle

        def detect(self, *arguments, **options):
            self.calls += 1
            return detector.detect(*arguments, **options)

    counting = Counting()
    work.receive(1)
    with pacs_of(0xA700, 0xA700, 0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""}, counting)
    assert counting.calls == 1


def test_late_images_complete_a_study_and_fewer_do_not_undo_it(work, tmp_path):
    work.receive(1, leave_out=1)  # the last one, which is not missed
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""})
        first = len(pacs.stored)
        work.receive(1)
        images = work.spool.outcome("1.2.1")["images"]
        work.until(pacs, lambda found: work.spool.outcome("1.2.1")["images"] != images)
        assert len(pacs.stored) == 2 * first
        for file in (tmp_path / "spool/studies/1.2.1").iterdir():
            file.unlink()
        work.receive(1, leave_out=30)  # two slices alone
        images = work.spool.outcome("1.2.1")["images"]
        work.until(pacs, lambda found: work.spool.outcome("1.2.1")["images"] != images)
        assert work.outcomes() == {"1.2.1": ""} and len(pacs.stored) == 2 * first


def test_a_full_disk_is_waited_for(work, bridge, monkeypatch):
    answer, calls = bridge.answer_scan, []

    def full_at_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise InputError("disk-full", "/tmp", "room", os.strerror(errno.ENOSPC), "free some")
        return answer(*arguments, **options)

    monkeypatch.setattr(bridge, "answer_scan", full_at_first)
    work.receive(1)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""})


def test_an_error_that_nobody_thought_of_ends_no_bridge_and_shows_no_values(work, bridge, monkeypatch, caplog):
    def fail(study_uid, *arguments, **options):
        raise KeyError("Zzyzx^p1")

    monkeypatch.setattr(bridge, "answer_scan", fail)
    work.receive(1)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": "failed"})
    assert "KeyError" in caplog.text and "Zzyzx" not in caplog.text + str(work.spool.outcome("1.2.1"))


@pytest.mark.parametrize("uid", ["..", "1/2", "", "../x", "1.2\n"])
def test_names_that_are_no_uids_are_refused(work, uid):
    with refused("setting-invalid"):
        work.spool.add(uid, "1.2", b"")
    with refused("setting-invalid"):
        work.spool.add("1.2", uid, b"")


def test_what_a_killed_bridge_left_half_written_is_removed(bridge, tmp_path):
    spool = bridge.Spool(tmp_path)
    spool.add("1.2", "1.2.3", b"x")
    (tmp_path / "studies/1.2/.partial-abc-1.2.4.dcm").write_bytes(b"half")
    assert {f.name for f in bridge.Spool(tmp_path).studies.rglob("*.dcm")} == {"1.2.3.dcm"}
