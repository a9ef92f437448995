"""A tamper-evident append-only log: one JSON object per line, each with the hash of the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmb_models.errors import InputError
from cmb_models.files import write_text


def read_entries(file: Path) -> list[dict[str, Any]]:
    """All entries that can be parsed, oldest first; [] if there is no log."""
    return [entry for line in _lines(file) if (entry := _parse(line)) is not None]


def append_entry(file: Path, **fields: Any) -> dict[str, Any]:
    """Append an entry with number, time and hashes added, and return it.

    The whole log is rewritten atomically, so that a killed process never leaves half a line. Only one process may append at a
    time: the caller holds a lock. If the clock was set back, `time` repeats that of the entry before and `clock` is the reading.

    Raises:
        InputError: For a broken log, which is not written to: an entry added to it would bury the fault.
    """
    if fault := first_fault(file):
        remedy = "restore it from git or a backup; after a git merge, run `cmb release merge`"
        raise InputError("log-damaged", file, "an unbroken log", fault, remedy)
    return _append(file, _lines(file), fields)


def merge_logs(file: Path, kept: str, other: str, **fields: Any) -> dict[str, Any] | None:
    """Write the log of two branches that each added entries: those of one, then one that holds the other's and names both heads.

    Args:
        file: The log to write.
        kept: Content of the log whose entries stay where they are.
        other: Content of the other log.
        **fields: Further fields of the new entry.

    Returns:
        The new entry, with merged (the other's entries since the two parted) and merged_sha256 (of the last of them); None where
        one log continues the other one, which is then written.

    Raises:
        InputError: For a broken log.
    """
    logs = kept.splitlines(), other.splitlines()
    for lines in logs:
        if fault := _fault(lines, Path(file).name):
            raise InputError("log-damaged", file, "unbroken logs on both branches", fault, "restore it on that branch first")
    common = next((n for n, pair in enumerate(zip(*logs, strict=False)) if pair[0] != pair[1]), min(map(len, logs)))
    if common in map(len, logs):
        write_text(file, "\n".join(logs[0] if len(logs[0]) > len(logs[1]) else logs[1]) + "\n")
        return None
    merged = [json.loads(line) for line in logs[1][common:]]
    return _append(file, logs[0], {**fields, "merged": merged, "merged_sha256": merged[-1]["sha256"]})


def with_merged(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All entries of a log, those of merged branches too, each once, instead of the entries that merged them."""
    seen: set[str] = set()
    pending = [*entries][::-1]
    while pending:
        entry = pending.pop()
        if entry["sha256"] in seen:
            continue
        seen.add(entry["sha256"])
        if "merged" in entry:
            pending += reversed(entry["merged"])
        else:
            yield entry


def _append(file: Path, lines: Sequence[str], fields: dict[str, Any]) -> dict[str, Any]:
    last = _parse(lines[-1]) if lines else None
    now = utc_now()
    time = max(now, last.get("time", "")) if last else now
    clock = {} if time == now else {"clock": now}
    entry = {"n": len(lines) + 1, "time": time, **clock, **fields, "previous_sha256": last["sha256"] if last else ""}
    entry["sha256"] = canonical_sha256(entry)
    write_text(file, "\n".join([*lines, json.dumps(entry, sort_keys=True, allow_nan=False)]) + "\n")
    return entry


def first_fault(file: Path) -> str:
    """Describe the first broken link of the log; "" if the chain is intact or there is no log.

    Entries removed at the end leave an intact chain: compare the last entry with the state it records, or with a copy in git.
    """
    return _fault(_lines(file), Path(file).name)


def _fault(lines: Sequence[str], name: str) -> str:
    previous = ""
    for n, line in enumerate(lines, start=1):
        entry = _parse(line)
        if entry is None:
            return f"{name} line {n} is not a log entry"
        if canonical_sha256({k: v for k, v in entry.items() if k != "sha256"}) != entry["sha256"]:
            return f"{name} line {n} was changed after it was written"
        if entry.get("previous_sha256") != previous:
            return f"{name} line {n} does not follow the line before it: an entry was removed, added or moved"
        previous = entry["sha256"]
    return ""


def canonical_sha256(value: Any) -> str:
    """SHA-256 of a value as canonical JSON: sorted keys, no whitespace."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _lines(file: Path) -> list[str]:
    return Path(file).read_text(encoding="utf-8").splitlines() if Path(file).is_file() else []


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("sha256"), str) else None
