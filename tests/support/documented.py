"""The shell and Python blocks of the documents, and a shell session that runs them one after the other in tiny workspaces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import psutil

from tests.support.imports import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]+) -->\n)?^ *```(?P<language>bash|sh|python)\n(?P<code>.*?)^ *```", re.M | re.S
)
ADDRESS = "127.0.0.1:8001"  # of the documented server; that of the running one is put in its place

# The commands as documented, but for sizes, a free port, and a prompt that DVC shows. `cmb server run` returns once it serves.
SHELL = """
set -euo pipefail
cmb() {
    case "$1 ${2:-}" in
        "init --upgrade") command cmb "$@" ;;
        init*) command cmb "$@"; PYTHONPATH=$CHECKOUT python -m tests.support.tiny "$2"; git -C "$2" add params.yaml ;;
        "simulate data/raw/site") command cmb "$@" --scans 6 --cmbs 14 --preset small ;;
        "simulate data/raw/site-b") command cmb "$@" --scans 2 --cmbs 4 --preset small --te-ms 30 --field-t 1.5 ;;
        "simulate followup") command cmb "$@" --preset small ;;
        "simulate OUT") command cmb "$@" --scans 1 --cmbs 2 --preset small ;;
        "server run")
            if [ -e "$HOME/server.pid" ]; then
                kill "$(cat "$HOME/server.pid")"
                tail --pid "$(cat "$HOME/server.pid")" -f /dev/null
            fi
            setsid "$(type -P cmb)" "$@" --port 0 > "$HOME/server.txt" 2>&1 &
            echo $! > "$HOME/server.pid"
            for _ in $(seq 900); do
                if grep -q "^serving" "$HOME/server.txt"; then return; fi
                kill -0 $! || break
                sleep 0.1
            done
            cat "$HOME/server.txt" >&2
            return 1 ;;
        *) command cmb "$@" ;;
    esac
}
dvc() { if [ "$1" = gc ]; then command dvc "$@" -f; else command dvc "$@"; fi; }
"""
GIT = {"NAME": "Reader", "EMAIL": "reader@example.org"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: its n-th, counted from 0. why_not: the reason in its `not run` comment, or ''."""

    document: str
    number: int
    language: str
    code: str
    why_not: str


def blocks(document: Path) -> list[Block]:
    """The shell and Python blocks of a document, in order."""
    name = document.relative_to(ROOT).as_posix() if document.is_relative_to(ROOT) else document.name
    found = FENCED.finditer(document.read_text(encoding="utf-8"))
    return [Block(name, n, f["language"], dedent(f["code"]), f["why"] or "") for n, f in enumerate(found)]


class Session:
    """A shell whose current folder and exported variables last from block to block. It begins in an empty home folder."""

    def __init__(self, home: Path) -> None:
        self.home = self.folder = home
        (home / "examples").symlink_to(ROOT / "examples")  # where a checkout has them
        identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in GIT.items()}
        inherited = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "CMB_SIGNING_KEY")}
        self.variables = (
            inherited
            | identity
            | {
                "HOME": str(home),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "CHECKOUT": str(ROOT),
                "MPLBACKEND": "Agg",
                "DVC_SITE_CACHE_DIR": str(home / ".dvc-site"),
            }
        )

    def run(self, block: Block, replacements: Mapping[str, str] | None = None) -> str:
        """Run a block, with some of its text replaced; what it prints. AssertionError with all output if it fails."""
        code = block.code
        for old, new in ({ADDRESS: self.server or ADDRESS} | dict(replacements or {})).items():
            code = code.replace(old, new)
        if block.language == "python":
            code = f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK"
        state = self.home / ".session"
        script = f"{SHELL}\n{code}\npwd > {state}\nenv -0 > {state}.variables\n"
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self.variables, text=True, capture_output=True)
        assert done.returncode == 0, f"{block.document}, block {block.number}:\n{code}\n{done.stdout}\n{done.stderr}"
        self.folder = Path(state.read_text().strip())
        self.variables = dict(v.split("=", 1) for v in Path(f"{state}.variables").read_text().split("\0") if "=" in v)
        return done.stdout

    @property
    def server(self) -> str:
        """The address of the workspace's running server, or ''."""
        with suppress(OSError):
            return json.loads((self.folder / "serving-state/server.json").read_text())["grpc_url"]
        return ""

    def close(self) -> None:
        """End the server that a block has started."""
        with suppress(OSError, psutil.NoSuchProcess):
            supervisor = psutil.Process(int((self.home / "server.pid").read_text()))
            supervisor.terminate()
            supervisor.wait(timeout=60)
