"""The benchmark of scale: its parts at a tiny size, the sums behind its figures, and that finished parts are kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks import scale
from benchmarks.serving.scans import SMALL
from cmb_models.files import read_json
from tests.support.imports import ROOT

TINY = scale.Size(rounds=1, jobs=2, steps=2, scans=24, few=4, partition=2)


def test_a_server_is_busy_where_requests_cover_the_time(tmp_path):
    """Requests from 98 to 104, 102 to 106 and 110 to 112 cover 8 of the seconds from 100 to 120; a second server has none."""
    (tmp_path / "idle").mkdir()
    ends = {"1970-01-01T00:01:44.000Z": 6.0, "1970-01-01T00:01:46.000Z": 4.0, "1970-01-01T00:01:52.000Z": 2.0}
    lines = [{"time": time, "total_s": seconds, "role": "production"} for time, seconds in ends.items()]
    lines += [{"time": "1970-01-01T00:01:58.000Z", "total_s": 5.0, "role": "probe"}]
    lines += [{"time": "1970-01-01T00:01:30.000Z", "total_s": 5.0, "role": "production"}]  # before the run
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "idle/requests.jsonl").touch()
    servers = [SimpleNamespace(log=folder / "server.log") for folder in (tmp_path, tmp_path / "idle")]
    assert scale.busy_share(servers, 100.0, 120.0) == pytest.approx(0.4 / 2)


def test_the_peak_is_that_of_the_process():
    assert scale.peak_mb("VmPeak:\t 900 kB\nVmHWM:\t    2000 kB\nVmRSS:\t 10 kB\n") == pytest.approx(2.048)


def test_a_run_that_ends_early_keeps_finished_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        scale, "PARTS", {"dask_overhead": lambda size, folder: {"ratio": 1.5}, "cohort": lambda size, folder: 1 // 0}
    )
    file = tmp_path / "scale.json"
    file.write_text('{"reading": {"sent_bytes": 1}}')
    with pytest.raises(ZeroDivisionError):
        scale.measure(["dask_overhead", "cohort"], TINY, file)
    found = read_json(file)
    assert found["goals"] == {"dask_overhead": 1.5} and found["reading"] == {"sent_bytes": 1}
    assert found["dask_overhead"]["machine"]["cores"] >= 1


@pytest.mark.slow
def test_reading_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "LARGE", SMALL)
    found = scale.reading(TINY, tmp_path)
    assert found["sent_bytes"] == 4 * 197 * 233 * 94
    # int16 and the header of 352 bytes
    assert found["uncompressed"]["bytes"] == 2 * 197 * 233 * 94 + 352 > found["compressed"]["bytes"]
    assert 0 < found["uncompressed"]["cpu_s"] < found["compressed"]["cpu_s"]


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_dask_and_the_pool_train_alike(tmp_path):
    found = scale.dask_overhead(TINY, tmp_path)
    assert found["range"] == [found["ratio"], found["ratio"]] and found["ratio"] > 0


@pytest.mark.ci
@pytest.mark.serving
@pytest.mark.timeout(300)
def test_a_cohort_survives_its_kills(tmp_path):
    found = scale.cohort(TINY, tmp_path)
    run = found["disturbed"]
    assert (run["rows"], run["missing"], run["twice"]) == (24, 0, 0) and run["with_error"] == found["whole"]["rejected"]
    assert run["kept_parts"] >= 3 and run["kept_parts_changed"] == 0
    assert found["few"]["scans"] == 4 and found["whole"]["scans"] == 24 and 0 < found["whole"]["server_busy"] < 1


def test_the_committed_run_lost_nothing():
    found = read_json(ROOT / "benchmarks/results/scale.json")["cohort"]
    run = found["disturbed"]
    assert (run["rows"], run["missing"], run["twice"]) == (run["scans"], 0, 0)
    assert run["with_error"] == found["whole"]["rejected"] and run["kept_parts_changed"] == 0
