"""Where the base release lies: a bundle trained on simulated scans only, in the folder of this file.

`bundle/` is the bundle, `release.pub` the public key that verifies its signature; release/base.py opens them, and `make base`
writes both. A build without them has no base release. They lie next to this module because code.lock hashes the files next to a
module: a stage that imports it runs again once the package brings another base release.
"""

from __future__ import annotations

from pathlib import Path

BASE = "base"  # its name for `cmb detect --bundle`, `cmb_models.load` and train.init_from
FOLDER = Path(__file__).resolve().parent
BUNDLE, PUBLIC_KEY = "bundle", "release.pub"  # in FOLDER


def is_shipped(folder: Path | None = None) -> bool:
    """Whether a folder, the package's if None, holds a base release, of whatever state."""
    return ((FOLDER if folder is None else Path(folder)) / BUNDLE).is_dir()
