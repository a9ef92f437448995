"""Shows `pip install -r LOCK` as one line that moves: `pip ... | python pip_progress.py LABEL LOCK LOG`. Standard library alone.

pip's whole output goes to LOG, and its last lines to the screen if it fails.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path


def main(label: str, lock: str, log: str) -> int:
    """Copy standard input to `log` while showing how many of the lock's packages were collected; 1 if pip reported an error."""
    total = sum(1 for line in Path(lock).read_text().splitlines() if "==" in line)
    state, done, start = {"count": 0, "doing": "collecting"}, threading.Event(), time.monotonic()
    live = sys.stderr.isatty()

    def show() -> None:
        while not done.wait(1 if live else 30):
            filled = round(20 * min(1, state["count"] / max(1, total)))
            bar = "#" * filled + "." * (20 - filled)
            text = f"{label} [{bar}] {state['count']}/{total} {state['doing']}, {time.monotonic() - start:.0f} s"
            sys.stderr.write(f"\r\x1b[K{text}" if live else f"{text}\n")
            sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    tail: list[str] = []
    with Path(log).open("w") as file:
        for line in sys.stdin:
            file.write(line)
            tail = [*tail[-15:], line]
            if line.startswith("Collecting "):
                state["count"] += 1
            elif line.startswith("Installing collected"):
                state["doing"] = "installing"
    done.set()
    thread.join()
    failed = any(line.startswith("ERROR") for line in tail)
    word = "failed" if failed else "ready"
    sys.stderr.write(("\r\x1b[K" if live else "") + f"{label}: {word} after {time.monotonic() - start:.0f} s\n")
    if failed:
        sys.stderr.write("".join(tail))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
