"""Insert simulated microbleeds into real gradient-echo scans and count what a release finds, and its false positives without them.

python -m research.real_backgrounds BUNDLE [--data ../shared/data] [--out FILE.json] [--pictures FOLDER]
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.release.bundle import BundleDetector
from research.real_backgrounds.measure import measure
from research.real_backgrounds.pictures import draw, require_outside
from research.stages import ROOT


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of a release.")],
    data: Annotated[Path, typer.Option(help="Folder of real files, with gre_crop/ and gbb7t/.")] = ROOT / "../shared/data",
    lesions: Annotated[int, typer.Option(min=1, help="Microbleeds inserted into each scan.")] = 160,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder outside the repository for pictures of false positives.")] = None,
) -> None:
    """Measure one release."""
    if pictures:
        require_outside(pictures)
    with BundleDetector(bundle, threads=1) as detector:
        figures = {
            "manifest_sha256": detector.bundle.manifest_sha256,
            "threshold": detector.bundle.config.decision.threshold,
            "scans": measure(detector, data, lesions, partial(draw, folder=pictures) if pictures else None),
        }
    if out:
        write_json(out, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
