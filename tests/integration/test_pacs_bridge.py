"""The PACS bridge with a real Orthanc: studies come back with their results, also where the bridge is killed half-way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.support.bundles import BLOBS_MM, head, make_bundle
from tests.support.dicom_export import SECRET, write_study
from tests.support.imports import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("Orthanc"), reason="needs Orthanc, Debian's package of this name"),
]
STUDIES = 20
EXAMPLE = ROOT / "examples/pacs_bridge"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "not within the time"
        time.sleep(0.2)


class Pacs:
    """An Orthanc with the example's configuration, on other ports."""

    def __init__(self, folder: Path, forwards: bool) -> None:
        self.dicom, self.http, self.bridge = free_ports(3)
        configuration = json.loads((EXAMPLE / "orthanc.json").read_text())
        configuration |= {"DicomPort": self.dicom, "HttpPort": self.http, "StorageDirectory": "db", "StableAge": 1}
        configuration["DicomModalities"]["cmb_bridge"][2] = self.bridge
        if not forwards:
            configuration["LuaScripts"] = []
        folder.mkdir()
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        shutil.copy(EXAMPLE / "forward.lua", folder)
        self.folder = folder
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(["Orthanc", "orthanc.json"], cwd=self.folder, stdout=log, stderr=log)
        until(self.is_up)

    def restart(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.start()

    def is_up(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(OSError):
            return bool(self.get("/system"))
        return False

    def call(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data, method=method)
        # No proxy: the address is this machine's.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return bytes(answer.read())

    def get(self, path: str):
        return json.loads(self.call(path))

    def store(self, folder: Path, images: slice = slice(None)) -> str:
        """The Orthanc name of the study in a folder."""
        answers = [json.loads(self.call("/instances", f.read_bytes())) for f in sorted(folder.rglob("IM*"))[images]]
        return answers[0]["ParentStudy"]

    def send(self, study: str) -> bool:
        """Whether the bridge took all of a study."""
        try:
            return self.call("/modalities/cmb_bridge/store", study.encode()) is not None
        except urllib.error.HTTPError:
            return False

    def results(self, study: str) -> Counter:
        """Number of objects of each modality in a study."""
        found: Counter = Counter()
        for series in self.get(f"/studies/{study}/series"):
            found[series["MainDicomTags"]["Modality"]] += len(series["Instances"])
        return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@contextlib.contextmanager
def pacs_of(folder: Path, forwards: bool = False) -> Iterator[Pacs]:
    pacs = Pacs(folder, forwards)
    try:
        yield pacs
    finally:
        pacs.process.terminate()
        pacs.process.wait(30)


@contextlib.contextmanager
def bridge_of(pacs: Pacs, folder: Path, bundle: Path, quiet_s: float = 1.0, keep_h: float = 1.0) -> Iterator[subprocess.Popen]:
    """The example as a process of its own, which has ended after the block."""
    line = [sys.executable, EXAMPLE / "bridge.py", "--pacs", f"ORTHANC@127.0.0.1:{pacs.dicom}", "--spool", folder / "spool"]
    line += ["--bundle", bundle, "--port", pacs.bridge, "--quiet-s", quiet_s, "--keep-h", keep_h]
    with (folder / "bridge.log").open("a") as log:
        process = subprocess.Popen(list(map(str, line)), stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        until(lambda: process.poll() is not None or is_open(pacs.bridge))
        assert process.poll() is None, (folder / "bridge.log").read_text()
        yield process
    finally:
        process.terminate()
        process.wait(60)


def jobs(pacs: Pacs, state: str) -> list[str]:
    # In one request: Orthanc forgets finished jobs, and one that it listed may be gone when it is queried.
    return [job["ID"] for job in pacs.get("/jobs?expand") if job["State"] == state]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def study(folder: Path, number: int, kinds=("swi", "minip")) -> Path:
    """A study of one patient; every fifth is without microbleeds."""
    blobs = BLOBS_MM if number % 5 else ()
    write_study(folder, "SIEMENS", f"p{number}", head(blobs, seed=number), np.random.default_rng(number), kinds)
    return folder


def done(spool: Path) -> dict[str, str]:
    """Code of each study that is done."""
    return {f.stem: json.loads(f.read_text())["code"] for f in (spool / "done").glob("[0-9]*.json")}


def test_twenty_studies_come_back_once_each_although_the_bridge_is_killed(tmp_path, bundle):
    spool = tmp_path / "spool"
    with pacs_of(tmp_path / "pacs") as pacs:
        names = {pacs.store(study(tmp_path / str(n), n)): n for n in range(STUDIES)}
        slices = pacs.results(next(iter(names)))["MR"]
        with bridge_of(pacs, tmp_path, bundle) as bridge:
            for name in list(names)[:12]:
                assert pacs.send(name)
            until(lambda: len(done(spool)) >= 4)
            bridge.kill()
            bridge.wait()
        assert not pacs.send(list(names)[12])
        assert len(done(spool)) < 12
        with bridge_of(pacs, tmp_path, bundle, keep_h=1e-4):
            for name in list(names)[10:]:  # two for the second time
                assert pacs.send(name)
            until(lambda: len(done(spool)) == STUDIES, 300)
            until(lambda: not list((spool / "studies").iterdir()))  # the images are kept no longer than asked for
        assert "Traceback" not in (tmp_path / "bridge.log").read_text()
        for name, number in names.items():
            expected = {"MR": slices, "SR": 1} | ({"SEG": 1} if number % 5 else {})
            assert pacs.results(name) == expected, number
        found = pacs.get("/studies?expand")
        assert len(found) == STUDIES and all(s["PatientMainDicomTags"]["PatientName"].startswith(SECRET) for s in found)
    assert not list((spool / "results").iterdir())
    assert SECRET not in (tmp_path / "bridge.log").read_text() + "".join(f.read_text() for f in (spool / "done").iterdir())


def test_orthanc_forwards_each_study_once_also_where_the_bridge_was_away(tmp_path, bundle):
    """Results are not sent back, and a study whose job failed is sent again with the next one, to the bridge alone."""
    with pacs_of(tmp_path / "pacs", forwards=True) as pacs, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        address = json.dumps({"AET": "OTHER", "Host": "127.0.0.1", "Port": other.getsockname()[1]})
        pacs.call("/modalities/other", address.encode(), "PUT")
        missed = pacs.store(study(tmp_path / "missed", 2))
        until(lambda: len(jobs(pacs, "Failure")) == 1)
        pacs.call("/modalities/other/store", json.dumps({"Resources": [missed], "Synchronous": False}).encode())
        until(lambda: len(jobs(pacs, "Failure")) == 2)
        other.listen()
        other.setblocking(False)
        with bridge_of(pacs, tmp_path, bundle, quiet_s=0.5):
            names = [missed, pacs.store(study(tmp_path / "a", 1))]
            until(lambda: all(pacs.results(name)["SEG"] == 1 for name in names))
            time.sleep(4)  # the studies are stable again
            for name in names:
                assert pacs.results(name)["SR"] == pacs.results(name)["SEG"] == 1
            assert (tmp_path / "bridge.log").read_text().count("objects sent") == 2
        with pytest.raises(BlockingIOError):
            other.accept()
        report = next(s for s in pacs.get(f"/studies/{missed}/series") if s["MainDicomTags"]["Modality"] == "SR")
        (tmp_path / "sr.dcm").write_bytes(pacs.call(f"/instances/{report['Instances'][0]}/file"))
    assert pydicom.dcmread(tmp_path / "sr.dcm").VerificationFlag == "UNVERIFIED"


def test_orthanc_sends_all_studies_that_the_bridge_missed(tmp_path, bundle):
    """More than the ten finished jobs that Orthanc keeps."""
    missed = 12
    with pacs_of(tmp_path / "pacs", forwards=True) as pacs:
        for number in range(missed + 1):
            write_study(
                tmp_path / str(number), "SIEMENS", f"p{number}", head((), shape=(8, 8, 2)), np.random.default_rng(0), ("t1",)
            )
        for number in range(missed):
            pacs.store(tmp_path / str(number))
        until(lambda: [c["ChangeType"] for c in pacs.get("/changes?limit=1000")["Changes"]].count("StableStudy") == missed)
        until(lambda: not jobs(pacs, "Pending") and not jobs(pacs, "Running"))
        assert len(jobs(pacs, "Failure")) < missed
        with bridge_of(pacs, tmp_path, bundle, quiet_s=0.5):
            pacs.store(tmp_path / str(missed))
            until(lambda: len(done(tmp_path / "spool")) == missed + 1)
    assert set(done(tmp_path / "spool").values()) == {"scan-series"}


def test_orthanc_sends_a_study_again_for_late_images_also_after_its_restart(tmp_path, bundle):
    folder = study(tmp_path / "a", 1, ("swi",))
    log = tmp_path / "bridge.log"
    with pacs_of(tmp_path / "pacs", forwards=True) as pacs, bridge_of(pacs, tmp_path, bundle, quiet_s=0.5):
        name = pacs.store(folder, slice(-2))
        until(lambda: pacs.results(name)["SEG"] == 1)
        time.sleep(4)  # the study is stable again
        assert log.read_text().count("objects sent") == 1
        pacs.restart()
        pacs.store(folder, slice(-2, -1))
        until(lambda: pacs.results(name)["SEG"] == 2)
        pacs.store(folder, slice(-1, None))
        until(lambda: pacs.results(name)["SEG"] == 3)
        time.sleep(4)
        assert log.read_text().count("objects sent") == pacs.results(name)["SR"] == 3


def test_a_study_that_cannot_be_used_is_done_with_its_code_and_an_absent_pacs_is_waited_for(tmp_path, bundle):
    spool = tmp_path / "spool"
    with pacs_of(tmp_path / "pacs") as pacs:
        unusable, usable = (pacs.store(study(tmp_path / k[0], n, k)) for n, k in ((1, ("t1", "minip")), (2, ("swi", "minip"))))
        address, pacs.dicom = pacs.dicom, free_ports(1)[0]
        with bridge_of(pacs, tmp_path, bundle):
            assert pacs.send(unusable) and pacs.send(usable)
            until(lambda: "accepts no association" in (tmp_path / "bridge.log").read_text())
            assert set(done(spool).values()) <= {"scan-series"}
        pacs.dicom = address
        with bridge_of(pacs, tmp_path, bundle):
            until(lambda: len(done(spool)) == 2)
        assert sorted(done(spool).values()) == ["", "scan-series"]
        assert pacs.results(usable)["SR"] == 1 and pacs.results(unusable)["SR"] == 0
    assert spool.stat().st_mode & 0o077 == 0  # what is inside is out of the reach of others
    assert list((spool / "studies").rglob("*.dcm")) and all(f.stat().st_mode & 0o077 == 0 for f in spool.rglob("studies/*/*.dcm"))


def test_the_second_bridge_on_one_spool_is_refused_in_a_sentence(tmp_path, bundle):
    with pacs_of(tmp_path / "pacs") as pacs, bridge_of(pacs, tmp_path, bundle):
        line = [sys.executable, EXAMPLE / "bridge.py", "--pacs", f"ORTHANC@127.0.0.1:{pacs.dicom}", "--spool", tmp_path / "spool"]
        line += ["--bundle", bundle, "--port", free_ports(1)[0]]
        second = subprocess.run(list(map(str, line)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert second.returncode == 2 and "use this spool" in second.stderr and "Traceback" not in second.stderr
