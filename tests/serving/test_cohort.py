"""`cmb cohort` with two real servers: one killed and restarted, the client killed once, and not one scan lost or done twice."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cmb_models.client.grpc import Client
from cmb_models.cohort import run
from cmb_models.cohort import servers as servers_module
from cmb_models.cohort.listing import list_cohort
from cmb_models.cohort.results import DETECTIONS, SCANS, is_finished, open_results, read_table
from cmb_models.cohort.servers import Servers
from cmb_models.dataset.statistics import references
from cmb_models.files import PARTIAL, exclusive, read_json, sha256_of, write_json
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.serving.deploy.fleet import deploy_bundle
from cmb_models.serving.run.triton_process import running_server
from cmb_models.volume import Volume
from tests.support.bundles import altered, head, make_bundle
from tests.support.dicom_export import SECRET, write_study
from tests.support.refused import refused

pytestmark = [pytest.mark.serving, pytest.mark.slow, pytest.mark.timeout(300)]
GOOD, PARTITION = 60, 8
CUT, EMPTY = 7, 23  # numbers of unusable scans


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A manifest of GOOD small scans with 0 to 3 spots, a file that is cut off, and one without a head."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(GOOD + 2):
        path = folder / f"scan-{number:03d}.nii.gz"
        spots = head(shape=(64, 64, 24), seed=number)
        if number == EMPTY:
            spots.data[:] = 5
        write_volume(path, spots, np.int16)
        if number == CUT:
            path.write_bytes(path.read_bytes()[:2000])
        rows.append({"scan": path.name})
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["scan"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two servers with the same release, restarted with nothing loaded if they end; and the bundle."""
    folder = tmp_path_factory.mktemp("pair")
    bundle = make_bundle(folder / "bundle", threshold=0.5)
    with running_server(folder / "a/repository") as one, running_server(folder / "b/repository") as two:
        for name, server in (("a", one), ("b", two)):
            deploy_bundle(bundle, 1, folder / name / "repository", server.grpc_url)
            server.keep()
        yield {"a": one, "b": two}, folder, bundle


def start(cohort: Path, into: Path, servers, *options: str) -> subprocess.Popen:
    addresses = [word for server in servers.values() for word in ("--server", server.grpc_url)]
    cmb = str(Path(sys.executable).with_name("cmb"))
    command = [cmb, "cohort", str(cohort), "--into", str(into), "--partition", str(PARTITION)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *addresses, *options], **pipes, text=True, cwd=cohort.parent)


def wait_for_parts(into: Path, count: int, process: subprocess.Popen) -> None:
    while sum(is_finished(into, n) for n in range(20)) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_kills_lose_nothing_and_do_nothing_twice(cohort, pair, tmp_path):
    servers, folder, bundle = pair
    into = tmp_path / "results"
    first = start(cohort, into, servers)
    wait_for_parts(into, 1, first)
    first.kill()
    first.wait()
    kept = {file: file.read_bytes() for file in into.glob("*/part-*.parquet")}
    assert 0 < len(kept) // 2 < (GOOD + 2) // PARTITION + 1, "the client ended before it was killed"

    second = start(cohort, into, servers)
    wait_for_parts(into, len(kept) // 2 + 1, second)
    os.kill(servers["b"].pid, signal.SIGKILL)
    while not servers["b"].restarted_pids():
        time.sleep(0.1)
    for _ in range(100):
        with contextlib.suppress(Exception):
            deploy_bundle(bundle, 1, folder / "b/repository", servers["b"].grpc_url)
            break
        time.sleep(0.1)
    out, words = second.communicate(timeout=120)
    assert second.returncode == 1, words
    assert f"{GOOD} of {GOOD + 2} scans processed" in out and "1 scan-" in words
    assert all(file.read_bytes() == content for file, content in kept.items())

    rows = read_table(into, SCANS).to_pydict()
    assert rows["number"] == list(range(GOOD + 2))
    codes = {n: code for n, code in enumerate(rows["code"]) if code}
    assert codes.keys() == {CUT, EMPTY} and codes[CUT] == "scan-file"
    assert all(not error for n, error in enumerate(rows["error"]) if n not in codes)
    assert set(rows["server"]) - {None} == {s.grpc_url for s in servers.values()}

    found = read_table(into, DETECTIONS).to_pydict()
    by_scan = Counter(found["number"])
    with Client(servers["a"].grpc_url) as client:
        for number in (0, 11, 37, GOOD + 1):
            answer = client.detect(read_volume(cohort.parent / f"scan-{number:03d}.nii.gz"))
            assert by_scan[number] == len(answer.detections) == rows["detections"][number] > 0
            scores = [s for n, s in zip(found["number"], found["score"], strict=True) if n == number]
            assert scores == [d.score for d in answer.detections]
    summary = json.loads((into / "summary.json").read_text())
    assert (summary["scans"], summary["processed"]) == (GOOD + 2, GOOD)
    assert sum(summary["scores"]) == summary["detections"] == len(found["score"])


def test_the_same_command_again_does_nothing_and_another_request_is_refused(cohort, pair, tmp_path):
    servers, _, _ = pair
    into = tmp_path / "results"
    start(cohort, into, servers).communicate(timeout=120)
    before = {file: file.stat().st_mtime_ns for file in into.glob("*/*.parquet")}
    again = start(cohort, into, servers)
    again.communicate(timeout=60)
    assert again.returncode == 1 and {file: file.stat().st_mtime_ns for file in into.glob("*/*.parquet")} == before
    cohort.with_name("shorter.csv").write_text("".join(cohort.read_text().splitlines(keepends=True)[:5]))
    other = start(cohort.with_name("shorter.csv"), into, servers)
    _, words = other.communicate(timeout=60)
    assert other.returncode == 2 and "manifest" in words and "write to another folder" in words


def test_dicom_folders_and_bids_datasets_become_rows_and_are_compared_with_the_training_data(pair, tmp_path):
    """Of two folders one has no SWI. Found is the same as in NIfTI files, and nothing that the headers say of the patient."""
    servers, _, bundle = pair
    spots = head(shape=(64, 64, 24), seed=3)
    rounded = Volume(np.rint(spots.data), spots.affine)
    for name, kinds in (("0001", ("swi", "phase", "t1")), ("0002", ("t1", "flair"))):
        write_study(tmp_path / "in" / name, "SIEMENS", name, rounded, np.random.default_rng(0), kinds)
    write_volume(tmp_path / "bids/sub-1/swi/sub-1_swi.nii.gz", rounded, np.int16)
    (tmp_path / "in/list.csv").write_text("scan,name\n0001,\n0002,without\n")
    found = {}
    for place in ("in/list.csv", "bids"):
        run = start(tmp_path / place, tmp_path / "out" / place, servers, "--bundle", str(bundle))
        out, words = run.communicate(timeout=120)
        assert run.returncode == (1 if place != "bids" else 0), words
        assert "not compared with the training data: in_plane_mm, slice_mm" in out  # of these networks no training is known
        found[place] = read_table(tmp_path / "out" / place, SCANS).to_pylist()
        assert json.loads((tmp_path / "out" / place / "summary.json").read_text())["drift"]["quantities"] == {}
    (swi, without), (bids,) = found["in/list.csv"], found["bids"]
    rows = [(row["name"], row["code"]) for row in (swi, without, bids)]
    assert rows == [("0001", ""), ("without", "scan-series"), ("sub-1_swi", "")]
    assert swi["detections"] == bids["detections"] > 0 and swi["best_score"] == pytest.approx(bids["best_score"], abs=1e-3)
    assert SECRET not in str(found)
    results = [f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()]
    assert len(results) >= 8 and not any(SECRET.encode() in content for content in results)


def test_a_cohort_is_compared_with_the_statistics_of_its_release_alone(cohort, tmp_path):
    """The release's training scans had slices of 1 mm, those of the cohort have 2."""

    def known(bundle):
        metadata = read_json(bundle / "metadata.json")
        training = references({"in_plane_mm": 1.0, "slice_mm": 1.0, "spread_to_median": s / 100} for s in range(100))
        write_json(bundle / "metadata.json", metadata | {"data": {"training": {"statistics": training}}})

    bundle = make_bundle(tmp_path / "plain", threshold=0.5)
    release = altered(bundle, tmp_path / "release", known)
    with running_server(tmp_path / "f/repository") as only:
        deploy_bundle(release, 1, tmp_path / "f/repository", only.grpc_url)
        run = start(cohort, tmp_path / "out", {"f": only}, "--bundle", str(release))
        out, _ = run.communicate(timeout=120)
        assert run.returncode == 1 and "slice_mm: 2, 2, 2; training data 1, 1, 1; 100 % outside the range, KS distance 1" in out
        assert out.count("differs in range and distance") == 1
        drift = json.loads((tmp_path / "out/summary.json").read_text())["drift"]
        assert drift["not_compared"] == ["p99_to_median", "best_score", "detections"]
        flags = {name: (c["outside_flag"], c["distance_flag"]) for name, c in drift["quantities"].items()}
        assert flags["slice_mm"] == (True, True) and flags["in_plane_mm"] == (False, False)
        assert drift["quantities"]["slice_mm"] | {"cohort": [2.0] * 3, "training": [1.0] * 3} == drift["quantities"]["slice_mm"]
        other = start(cohort, tmp_path / "other", {"f": only}, "--bundle", str(bundle))
        _, words = other.communicate(timeout=60)
        assert other.returncode == 2 and "on all servers" in words and not (tmp_path / "other/request.json").exists()


def test_servers_of_two_releases_are_refused(pair, tmp_path):
    servers, _, _ = pair
    bundle = make_bundle(tmp_path / "other", threshold=0.7)
    with running_server(tmp_path / "c/repository") as third:
        deploy_bundle(bundle, 1, tmp_path / "c/repository", third.grpc_url)
        with refused("results-mixed", got=third.grpc_url):
            Servers([servers["a"].grpc_url, third.grpc_url])
        with refused("results-mixed"):
            Servers([servers["a"].grpc_url], manifest_sha256="00")


def test_a_run_without_any_server_left_ends_and_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(servers_module, "REST_S", (0.1, 0.2))
    bundle = make_bundle(tmp_path / "bundle")
    with running_server(tmp_path / "d/repository") as only:
        deploy_bundle(bundle, 1, tmp_path / "d/repository", only.grpc_url)
        servers = Servers([only.grpc_url, "127.0.0.1:9"], patience_s=1.0)
        answer, url = servers.detect(head(), None, "scan")
        assert url == only.grpc_url and answer.candidates
    with servers, refused("server-unreachable", got="no answer for 1 s"):
        servers.detect(head(), None, "scan")
    with refused("server-unreachable"):
        Servers(["127.0.0.1:9"])


def test_a_server_that_changes_its_release_is_left_out_and_no_scan_is_blamed(pair, tmp_path, monkeypatch):
    """The other release requires phase, which these scans do not have."""
    monkeypatch.setattr(servers_module, "REST_S", (0.1, 0.2))
    servers, _, bundle = pair
    with running_server(tmp_path / "e/repository") as changing:
        deploy_bundle(bundle, 1, tmp_path / "e/repository", changing.grpc_url)
        with Servers([changing.grpc_url, servers["a"].grpc_url], slots=1) as both:
            assert both.detect(head(), None, "before")[1] == changing.grpc_url
            deploy_bundle(make_bundle(tmp_path / "other", phase=True), 2, tmp_path / "e/repository", changing.grpc_url)
            for number in range(4):
                assert both.detect(head(seed=number), None, "after")[1] == servers["a"].grpc_url


@pytest.fixture
def faulty(pair, monkeypatch):
    """faulty(when) makes both servers answer with an error of their own where `when(url, case)`; returns who was asked what."""
    monkeypatch.setattr(servers_module, "REST_S", (0.1, 0.2))
    asked, detect = [], Client.detect

    def make(when):
        def answer(self, *scan, case):
            asked.append((self.url, case))
            if when(self.url, case):
                raise RuntimeError(f"{self.url}: step failed")
            return detect(self, *scan, case=case)

        monkeypatch.setattr(Client, "detect", answer)
        return asked

    return make


def urls(pair) -> list[str]:
    return [server.grpc_url for server in pair[0].values()]


def test_a_scan_on_which_servers_fail_is_given_up_once_one_answers_another(pair, faulty):
    asked = faulty(lambda _url, case: case == "bad")
    with Servers(urls(pair)) as servers:
        servers.detect(head(), None, "good")
        with pytest.raises(RuntimeError, match=r"bad: servers failed 3 times on this scan, but not on another; .*step failed"):
            servers.detect(head(), None, "bad")
    assert [case for _, case in asked] == ["good", "bad", "bad", "good", "bad"]


def test_a_scan_is_not_blamed_for_what_another_does_to_its_server(pair, monkeypatch):
    """One scan takes down the requests that share its server; the others are answered all the same."""
    monkeypatch.setattr(servers_module, "REST_S", (0.1, 0.2))
    detect, under_way, ended = Client.detect, Counter(), threading.Lock()

    def answer(self, *scan, case):
        with ended:
            under_way[case] += 1
            bad = under_way["bad"] > 0
        try:
            if case == "bad":
                time.sleep(0.5)
            elif bad:
                raise RuntimeError("ended by another request")
            result = detect(self, *scan, case=case)
            if case == "bad" or under_way["bad"]:
                raise RuntimeError("server ended")
            return result
        finally:
            with ended:
                under_way[case] -= 1

    with Servers(urls(pair)[:1], slots=2) as servers:
        servers.detect(head(), None, "first")
        monkeypatch.setattr(Client, "detect", answer)
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(servers.detect, head(seed=n), None, f"innocent {n}") for n in range(3)]
            bad = pool.submit(servers.detect, head(), None, "bad")
            assert all(other.result()[0].candidates for other in others)
            with pytest.raises(RuntimeError, match="bad: servers failed"):
                bad.result()


def test_no_scan_is_blamed_for_a_server_that_fails_on_all(pair, faulty):
    broken = urls(pair)[0]
    faulty(lambda url, _case: url == broken)
    with Servers(urls(pair), slots=1) as servers:
        assert {servers.detect(head(), None, f"scan {n}")[1] for n in range(6)} == {urls(pair)[1]}


def test_no_scan_is_blamed_while_all_servers_fail(pair, faulty):
    """Neither with an earlier scan to ask for, once they are in order again, nor without, when the run ends."""
    failing = []
    asked = faulty(lambda _url, _case: len(failing) > 0)
    with Servers(urls(pair)) as servers:
        servers.detect(head(), None, "first")
        failing.append(True)
        repair = threading.Timer(1.5, failing.clear)
        repair.start()
        assert servers.detect(head(), None, "second")[0].candidates
        assert len(asked) > 5
    failing.append(True)
    with Servers(urls(pair), patience_s=1.0) as servers, refused("server-unreachable", got="no answer for 1 s; .*step failed"):
        servers.detect(head(), None, "third")


def test_what_a_killed_run_left_is_removed_and_one_process_writes_at_a_time(cohort, pair, tmp_path):
    into = tmp_path / "results"
    left = into / SCANS / f"{PARTIAL}x-part-000001.parquet"
    left.parent.mkdir(parents=True)
    (into / ".directory").touch()  # hidden files of a desktop are no results
    with exclusive(into / ".lock"):
        _, words = start(cohort, into, pair[0]).communicate(timeout=60)
    assert "one process to write these results" in words and not (into / "request.json").exists()
    left.touch()
    with refused("folder-taken", got="other files"):
        open_results(into, sha256_of(cohort), "00", None, PARTITION)
    shutil.rmtree(into / SCANS)
    open_results(into, sha256_of(cohort), "00", None, PARTITION)
    left.parent.mkdir()
    left.touch()
    open_results(into, sha256_of(cohort), "00", None, PARTITION)
    assert not left.exists()


def test_a_share_that_is_no_longer_mounted_ends_the_run(cohort, pair, tmp_path):
    """And writes no row for scans that could not be read; one file that is removed is a row."""
    share, into = tmp_path / "share", tmp_path / "results"
    shutil.copytree(cohort.parent, share)
    into.mkdir()
    scans = list_cohort(share / "manifest.csv").scans
    with Servers(urls(pair)) as servers:
        open_results(into, "00", servers.manifest_sha256, None, PARTITION)
        read = deque(maxlen=1)
        assert not run.look_through(scans[0], servers, None, read).scan["code"]
        scans[1].path.unlink()
        assert run.look_through(scans[1], servers, None, read).scan["code"] == "file-not-found"
        share.rename(tmp_path / "away")
        with refused("storage-unreachable", case="share/scan-"):
            run.run_cohort(scans, servers, into, PARTITION)
    assert not is_finished(into, 0)
