"""The built documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.imports import ROOT


def build_site(folder: Path) -> Path:
    """Build the documentation as `make docs` does, into a folder. AssertionError with the builder's output if it warns or fails."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
