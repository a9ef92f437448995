"""An append-only log: one JSON object a line, each carrying the hash of the one before, so that no later edit goes unseen."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmb_models.files import write_text


def read_entries(file: Path) -> list[dict[str, Any]]:
    """All entries that can be read, oldest first; [] when nothing was logged yet."""
    return [entry for line in _lines(file) if (entry := _parse(line)) is not None]


def append_entry(file: Path, **fields: Any) -> dict[str, Any]:
    """Append an entry with number, time and chain added, and return it.

    The log is written anew as a whole, synced and renamed, so that a killed process never leaves half a line. Two processes
    must not append at once: the caller holds a lock, or is the only one. A clock that was set back does not turn the order of
    time: the entry carries the time of the one before, and `clock` what the clock said.
    """
    lines = _lines(file)
    last = _parse(lines[-1]) if lines else None
    now = utc_now()
    time = max(now, last.get("time", "")) if last else now
    late = {} if time == now else {"clock": now}
    entry = {"n": len(lines) + 1, "time": time, **late, **fields, "previous_sha256": last["sha256"] if last else ""}
    entry["sha256"] = canonical_sha256(entry)
    lines.append(json.dumps(entry, sort_keys=True, allow_nan=False))
    write_text(file, "\n".join(lines) + "\n")
    return entry


def first_fault(file: Path) -> str:
    """The first broken link of the log in words; "" when the whole chain holds, as that of a log not yet begun does.

    Entries cut off at the end leave a whole chain: compare the last entry with what it tells of, or with a copy in git.
    """
    name, previous = Path(file).name, ""
    for n, line in enumerate(_lines(file), start=1):
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
    """SHA-256 of a value as canonical JSON: sorted keys, no blanks."""
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
