"""What goes wrong around a move (a second one, no MLflow, no room, a clock set back) is refused or survived, in a sentence."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cmb_models.errors import InputError
from cmb_models.hash_chain import read_entries
from cmb_models.registry.history.audit import audit, audit_fault
from cmb_models.registry.mlflow.store import fetch_release
from cmb_models.registry.promote import promote, resume, rollback
from tests.integration.mlflow_server import mlflow_server
from tests.integration.registry_site import aliases
from tests.support.command_line import cmb
from tests.support.refused import refused

NOWHERE = "http://127.0.0.1:9"  # nobody listens there


def _promote(folder, number, ready, go, said) -> None:
    os.chdir(folder)
    ready.release()
    go.wait()
    try:
        promote(number, f"mine, {number}", folder)
        said.put((number, ""))
    except InputError as error:
        said.put((number, str(error)))


def at_once(folder, numbers) -> dict[str, str]:
    """Promote each of the releases in a process of its own, all begun together; the fault of each, "" for none."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow", "tests.integration.test_registry_faults"])
    ready, go, said = context.Semaphore(0), context.Event(), context.Queue()
    processes = [context.Process(target=_promote, args=(folder, n, ready, go, said)) for n in numbers]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    shown = dict(said.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return shown


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(site):
    shown = at_once(site, ["1", "2"])
    winners = [number for number, fault in shown.items() if not fault]
    assert len(winners) == 1, shown
    (loser,) = (fault for fault in shown.values() if fault)
    assert f"got production {winners[0]}, by promote of Site Engineer" in loser and "run the command again" in loser
    (entry,) = read_entries(site / "audit.jsonl")
    assert str(entry["release"]) == winners[0]
    assert aliases(site) == {"production": int(winners[0])}
    assert audit_fault(site) == ""


def test_a_promotion_waits_for_a_registration_and_then_goes_on(site):
    """What holds the lock without moving anything is no reason to refuse."""
    from cmb_models.registry.history.lock import registry_lock
    from cmb_models.registry.mlflow.store import Registry

    freed = threading.Event()
    with registry_lock(Registry(site, f"sqlite:///{site}/mlflow.db", True)):
        thread = threading.Thread(target=lambda: (promote("1", start=site), freed.set()))
        thread.start()
        assert not freed.wait(1)
    thread.join(60)
    assert aliases(site) == {"production": 1}


def test_without_mlflow_nothing_is_promoted_and_what_runs_goes_on(site, monkeypatch):
    promote("1", start=site)
    promote("2", start=site)
    before = (site / "audit.jsonl").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for attempt in (lambda: promote("1", start=site), lambda: resume(site), lambda: audit(site)):
        with refused("registry-unreachable"):
            attempt()
    assert (site / "audit.jsonl").read_text() == before
    assert fetch_release("production", site).release == 2
    result = cmb("release", "rollback", "--reason", "2 is bad and the server is down")
    assert "release 1 is production again" in result.output
    assert "the move is logged, but the aliases are not updated; run `cmb release repair`" in " ".join(result.output.split())
    assert fetch_release("production", site).release == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # it is back
    assert "moved outside `cmb`, or a command was interrupted" in audit_fault(site)
    assert resume(site) == ["the aliases were production 2, previous 1 and are production 1, previous 2"]
    assert audit_fault(site) == ""


def test_a_password_in_the_address_is_not_shown(site, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with refused("registry-unreachable") as caught:
        audit(site)
    assert "someone:secret" not in caught.value.case


@pytest.mark.parametrize("full_at", ["releases", "audit.jsonl"])
def test_a_full_disk_stops_a_promotion_before_it_happened(site, monkeypatch, full_at):
    """os.replace fails as it does when the folder's own entry finds no room."""
    promote("1", start=site)
    replace = os.replace

    def full(source, target, **options):
        if full_at in str(target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with refused("disk-full"):
            promote("2", start=site)
    assert aliases(site) == {"production": 1}
    assert audit_fault(site) == ""
    assert promote("2", start=site).moved


def test_a_clock_set_back_does_not_turn_the_order_of_the_log(site, monkeypatch):
    promote("1", start=site)
    time = read_entries(site / "audit.jsonl")[0]["time"]
    monkeypatch.setattr("cmb_models.hash_chain.utc_now", lambda: "2020-01-01T00:00:00Z")
    result = cmb("release", "promote", "2", "--reason", "better")
    said = " ".join(result.output.split())
    assert f"the clock (2020-01-01T00:00:00Z) is behind the last entry of the log; this entry is dated {time}" in said
    entry = read_entries(site / "audit.jsonl")[1]
    assert (entry["time"], entry["clock"]) == (time, "2020-01-01T00:00:00Z")
    report = audit(site)
    assert report.faults == () and "line 2: the clock (2020-01-01T00:00:00Z)" in report.notes[0]


def test_entries_out_of_time_are_a_fault(site, monkeypatch):
    promote("1", start=site)
    from cmb_models.hash_chain import canonical_sha256

    log = site / "audit.jsonl"
    first = read_entries(log)[0]
    entry = {k: v for k, v in first.items() if k != "sha256"} | {
        "n": 2,
        "time": "2020-01-01T00:00:00Z",
        "previous_sha256": first["sha256"],
    }
    import json

    log.write_text(log.read_text() + json.dumps(entry | {"sha256": canonical_sha256(entry)}) + "\n")
    assert audit_fault(site) == f"audit.jsonl line 2 is dated 2020-01-01T00:00:00Z, before its predecessor ({first['time']})"


def test_moves_over_a_run_that_was_deleted_are_told(site):
    from cmb_models.registry.mlflow.store import open_registry

    with open_registry(site) as registry:
        registry.client.delete_run(registry.resolve("1").run_id)
    assert promote("1", start=site).moved
    assert rollback_is_refused(site)
    assert fetch_release("production", site).release == 1
    assert audit_fault(site) == ""


def rollback_is_refused(folder) -> bool:
    with refused("role-empty"):
        rollback("no", folder)
    return True


def test_a_registry_that_does_not_accept_the_host_of_a_proxy_is_not_said_to_be_down(site, monkeypatch, tmp_path):
    """MLflow answers 403 to a host that it was not started with."""
    options = ("--allowed-hosts", "registry.hospital.example")
    with mlflow_server(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "artifacts", tmp_path / "log", *options) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with refused("registry-unreachable", got="Invalid Host header") as caught:
            promote("1", start=site)
    assert "CMB_REGISTRY_HOSTS" in caught.value.remedy and "start it" not in caught.value.remedy


def test_a_proxy_that_denies_access_is_not_said_to_be_down(site, monkeypatch):
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.server_port}")
        with refused("registry-unreachable", got="403") as caught:
            promote("1", start=site)
        proxy.shutdown()
    assert "denies access" in caught.value.remedy
