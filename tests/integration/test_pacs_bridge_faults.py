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
from cmb_models.importing.dicom import convert
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
    """A storage SCP that answers with the statuses given, the last one again and again. stored: modalities, in order.

    aborts_at: a part of a patient's name, at whose results it ends the association.
    """

    def __init__(self, *statuses: int, without=(), aborts_at: str = "") -> None:
        self.statuses, self.stored, self.aborts_at = list(statuses), [], aborts_at
        self.entity = AE(ae_title=TITLE)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax not in without:
                self.entity.add_supported_context(context.abstract_syntax, ExplicitVRLittleEndian)
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.answer)])

    def answer(self, event) -> int:
        if self.aborts_at and self.aborts_at in str(event.dataset.PatientName):
            event.assoc.abort()
            return 0xC000
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status in (0, 0xB000):
            self.stored.append(event.dataset.Modality)
        return status


@contextmanager
def pacs_of(*statuses: int, **options):
    pacs = Pacs(*statuses, **options)
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
            return {f.stem: self.spool.outcome(f.stem)["code"] for f in self.spool.done.glob("[0-9]*.json")}

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


def test_a_more_complete_result_that_is_refused_is_recorded_so_and_may_be_sent_again(work):
    work.receive(1, leave_out=1)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""})
    work.receive(1)
    with pacs_of(0xA900) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": "result-refused"})
    time.sleep(0.02)
    work.receive(1)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": ""})


def test_a_pacs_that_ends_the_association_at_one_study_has_the_results_of_the_others(work):
    work.receive(1)
    work.receive(2)
    with pacs_of(0, aborts_at="p1") as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": "result-refused", "1.2.2": ""})
        assert sorted(pacs.stored) == ["SEG", "SR"]


@contextmanager
def failing(owner, name: str, error: Exception, at):
    """`owner.name` raises an error at the calls whose numbers, from 1, are in `at`."""
    function, calls = getattr(owner, name), []

    def fails(*arguments, **options):
        calls.append(1)
        if len(calls) in at:
            raise error
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fails)
        yield calls


WAITED_FOR = {
    **{code: InputError(code, "/tmp", "one", "none", "wait") for code in ("disk-full", "folder-not-writable", "server-timeout")},
    "no room": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "no permission": PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
}


@pytest.mark.parametrize("error", WAITED_FOR.values(), ids=WAITED_FOR)
def test_what_is_no_studys_fault_is_waited_for(work, bridge, error):
    tries = bridge.MOST_FAILURES + 1
    work.receive(1)
    with pacs_of(0) as pacs, failing(bridge, "answer_scan", error, range(1, tries + 1)) as calls:
        work.until(pacs, lambda found: found == {"1.2.1": ""})
        assert len(calls) == tries + 1


def test_a_server_without_an_answer_to_one_study_has_the_others(work, bridge):
    answer = bridge.answer_scan

    def late(study_uid, *arguments, **options):
        if study_uid == "1.2.1":
            raise WAITED_FOR["server-timeout"]
        return answer(study_uid, *arguments, **options)

    work.receive(1)
    work.receive(2)
    with pacs_of(0) as pacs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge, "answer_scan", late)
        work.until(pacs, lambda found: found == {"1.2.2": ""})


def test_a_state_that_cannot_be_written_is_waited_for(work, bridge):
    """When a result is recorded, and when a failure is."""
    work.receive(1)
    with pacs_of(0) as pacs, failing(work.spool, "finish", WAITED_FOR["disk-full"], (1,)):
        work.until(pacs, lambda found: found == {"1.2.1": ""})
    work.receive(2)
    with pacs_of(0xA900) as pacs, failing(work.spool, "finish", WAITED_FOR["no room"], (1,)):
        work.until(pacs, lambda found: found.get("1.2.2") == "result-refused")


def test_a_state_that_cannot_be_read_ends_no_bridge(work, caplog):
    record = work.spool.done / "1.2.1.json"
    record.mkdir()
    work.receive(1)

    def mended(found) -> bool:
        if record.is_dir() and "trying again" in caplog.text:
            record.rmdir()
        return found == {"1.2.1": ""}

    work.outcomes = lambda: {} if record.is_dir() else type(work).outcomes(work)
    with pacs_of(0) as pacs:
        work.until(pacs, mended)


def test_failures_before_a_success_are_not_counted_after_it(work, bridge):
    work.receive(1, leave_out=1)
    with pacs_of(0) as pacs, failing(bridge, "answer_scan", RuntimeError(), (1, 2, 4, 5)):
        work.until(pacs, lambda found: found == {"1.2.1": ""})
        work.receive(1)
        images = work.spool.outcome("1.2.1")["images"]
        work.until(pacs, lambda found: work.spool.outcome("1.2.1")["images"] != images)
    assert work.outcomes() == {"1.2.1": ""}


def test_a_series_that_was_not_converted_in_time_may_be_sent_again(work, monkeypatch):
    monkeypatch.setattr(convert, "CONVERSION_S", 1e-3)
    work.receive(1)
    with pacs_of(0) as pacs:
        work.until(pacs, lambda found: found == {"1.2.1": "failed"})
        assert "within 0.001 s" in work.spool.outcome("1.2.1")["error"]
        monkeypatch.undo()
        time.sleep(0.02)
        work.receive(1)
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
