"""Logs that several processes write and turn over: no line lost, none mixed with another, never larger than allowed."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import stat
from datetime import UTC, datetime, timedelta

import pytest

from cmb_models.client.log_lines import LineLog, read_lines


def all_files(log: LineLog) -> list:
    """Oldest first."""
    older = [p for n in range(log.kept, 0, -1) if (p := log.file.with_name(f"{log.file.name}.{n}")).exists()]
    return [*older, log.file]


def test_entries_come_back_in_order_with_their_time(tmp_path):
    log = LineLog(tmp_path / "new folder" / "log.jsonl")
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    log.append({"n": 1})
    log.append({"n": 2, "time": "2026-01-02T03:04:05.000Z"})
    first, second = read_lines(log.file)
    assert before <= datetime.fromisoformat(first["time"]) <= datetime.now(UTC) and first["time"].endswith("Z")
    assert (first["n"], second) == (1, {"n": 2, "time": "2026-01-02T03:04:05.000Z"})
    assert stat.S_IMODE(log.file.stat().st_mode) & 0o007 == 0


def test_turned_over_by_size_with_a_bounded_total(tmp_path):
    log = LineLog(tmp_path / "log.jsonl", max_bytes=500, kept=3)
    for n in range(100):
        log.append({"n": n})
    numbers = [e["n"] for file in all_files(log) for e in read_lines(file)]
    assert numbers == list(range(numbers[0], 100)) and len(numbers) > 30
    assert len(all_files(log)) == 4 and all(file.stat().st_size <= 500 for file in all_files(log))


def test_turned_over_by_age(tmp_path):
    log = LineLog(tmp_path / "log.jsonl", max_age_s=3600)
    now = datetime.now(UTC)
    log.append({"time": (now - timedelta(minutes=59)).isoformat()})
    log.append({"n": "young enough"})
    assert all_files(log) == [log.file]
    log.file.write_text(json.dumps({"time": (now - timedelta(minutes=61)).isoformat()}) + "\n")
    log.append({"n": "too old"})
    assert [e.get("n") for e in read_lines(log.file)] == ["too old"] and len(all_files(log)) == 2


def write_many(file, writer: int, lines: int) -> None:
    log = LineLog(file, max_bytes=20_000, kept=50)
    for n in range(lines):
        log.append({"writer": writer, "n": n, "filling": "x" * (writer * 50)})


def test_processes_at_once_lose_and_mix_nothing_while_it_turns_over(tmp_path):
    file = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(file, writer, 200)) for writer in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = all_files(LineLog(file, kept=50))
    lines = [line for f in files for line in f.read_text().splitlines() if line]
    entries = [json.loads(line) for line in lines]
    assert len(files) > 5
    assert sorted((e["writer"], e["n"]) for e in entries) == [(w, n) for w in range(6) for n in range(200)]


def test_a_full_disk_is_an_error_and_the_next_line_that_fits_is_whole(tmp_path):
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"n": 0})
    size, limits = log.file.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))  # the system's own limit: a write stops halfway
    try:
        with pytest.raises(OSError, match="No space"):
            log.append({"n": "half"})
        with pytest.raises(OSError, match="too large"):
            log.append({"n": "none"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert log.file.stat().st_size == size + 10
    log.append({"n": 1})
    assert [e["n"] for e in read_lines(log.file)] == [0, 1]


def test_a_folder_in_its_place_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        LineLog(tmp_path).append({"n": 0})


def test_a_pipe_nobody_reads_is_an_error_and_no_standstill(tmp_path):
    """As /dev/stdout of a container whose reader hangs."""
    os.mkfifo(tmp_path / "pipe")
    log = LineLog(tmp_path / "pipe", max_bytes=10)
    reader = os.open(log.file, os.O_RDONLY | os.O_NONBLOCK)
    log.append({"n": 1})
    assert json.loads(os.read(reader, 1000))["n"] == 1
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            log.append({"filling": "x" * 1000})
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]
