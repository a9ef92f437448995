"""What every stage shares: where its files are, and how it ends when its input is at fault."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cmb_models.cores import limit_threads
from cmb_models.errors import InputError
from cmb_models.system import require_linux

PARAMS = Path("params.yaml")
INDEX = Path("data/index.json")
SPLIT = Path("data/split.json")
PREPARED = Path("data/prepared")
CANDIDATES = Path("data/candidates")
TUNED_UNET = Path("models/tuned/unet.json")
TUNED_CNN = Path("models/tuned/cnn.json")
CALIBRATION = Path("models/calibration.json")
WEIGHTS = Path("models/weights")
BUNDLE = Path("models/bundle")
REPORTS = Path("reports")
CHECKPOINTS = Path("studies/checkpoints")  # no output: what a killed stage goes on from


def run(main: Callable[[], None]) -> None:
    """Run a stage's main function in the workspace; a fault of the input is one line and exit code 2."""
    logging.basicConfig(level=os.environ.get("CMB_LOG", "WARNING"), format="%(asctime)s %(name)s: %(message)s")
    try:
        require_linux("training")
        limit_threads()
        main()
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the stage's own last word, for people
        sys.exit(2)
