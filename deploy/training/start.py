"""Run a command with the password of Optuna's database read from a file, since `docker inspect` shows variables and arguments.

    python3 start.py dvc repro

libpq reads the variable PGPASSWORD, so CMB_OPTUNA_STORAGE names user, host and database only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PASSWORD_FILE = "CMB_OPTUNA_PASSWORD_FILE"


def environment() -> dict[str, str]:
    """The variable that libpq reads; {} where no file is named, as for a scheduler and workers."""
    file = os.environ.get(PASSWORD_FILE, "")
    return {"PGPASSWORD": Path(file).read_text(encoding="utf-8").strip()} if file else {}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("error: expected a command, such as dvc repro, got none")
    os.environ.update(environment())
    os.execvp(sys.argv[1], sys.argv[1:])
