"""Entry point of every stage: checks the code and the system first, and reports an error in the input in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.machine import LOG_LEVELS, limit_threads, require_linux
from cmb_models.workspace.code_lock import require_locked
from cmb_models.workspace.paths import SCRIPTS


def run(main: Callable[[], None]) -> None:
    """Run a stage's main function in the workspace; an error in the input is one line and exit code 2.

    Refuses to run code that code.lock does not describe: DVC would attribute the outputs to other code.
    """
    try:
        logging.basicConfig(level=_log_level(), format="%(asctime)s %(name)s: %(message)s")
        require_linux("training")
        script = Path(main.__code__.co_filename)
        if script.parent.name == SCRIPTS.name:
            require_locked(Path("."), script.stem)
        limit_threads()
        main()
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - shown to the user by DVC
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; `dvc repro` resumes", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(130)


def _log_level() -> str:
    level = os.environ.get("CMB_LOG", "warning")
    if level.lower() not in LOG_LEVELS:
        expected = f"one of {', '.join(LOG_LEVELS)}"
        raise InputError("setting-invalid", "$CMB_LOG", expected, repr(level), "correct it, or unset it for warning")
    return level.upper()
