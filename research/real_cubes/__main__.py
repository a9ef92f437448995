"""Give real microbleeds to a release's networks: three planes through each, assembled into a cube.

    python -m research.real_cubes BUNDLE [--data ../shared/data] [--out FILE.json]

The control, simulated lesions whose whole cube is known, is kept in research/.cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.release.bundle import load_bundle
from research.real_cubes.measure import measure
from research.stages import ROOT


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of a release.")],
    data: Annotated[Path, typer.Option(help="Folder of real files, with dou_planes/.")] = ROOT / "../shared/data",
    control_scans: Annotated[int, typer.Option(min=0, help="Simulated scans of each generation; 0 for no control.")] = 16,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure one release."""
    release = load_bundle(bundle)
    figures = {"manifest_sha256": release.manifest_sha256, **measure(release, data, control_scans)}
    if out:
        write_json(out, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
