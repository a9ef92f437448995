"""All figures of a release on real images, by one command, and the page that shows those of every release measured so far.

    python -m research.real_evidence BUNDLE --name NAME [--data ../shared/data] [--pictures FOLDER]
    python -m research.real_evidence --render    # the page alone, from research/results/real_evidence.json

Pictures show real images: keep them outside the repository. The control is simulated once and kept in research/.cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.errors import InputError
from cmb_models.files import read_json, write_json, write_text
from cmb_models.release.bundle import BundleDetector
from research.real_backgrounds.measure import measure as measure_backgrounds
from research.real_backgrounds.pictures import draw, require_outside
from research.real_cubes.measure import measure as measure_cubes
from research.real_evidence.page import page
from research.stages import ROOT

RESULTS, PAGE = ROOT / "research/results/real_evidence.json", ROOT / "research/real_evidence.md"
LESIONS, CONTROL_SCANS = 160, 16


def main(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a release.")] = None,
    name: Annotated[str, typer.Option(help="Of the release's row; a row of that name is replaced.")] = "",
    data: Annotated[Path, typer.Option(help="Folder of real files.")] = ROOT / "../shared/data",
    lesions: Annotated[int, typer.Option(min=1, help="Microbleeds inserted into each scan.")] = LESIONS,
    control_scans: Annotated[int, typer.Option(min=0, help="Simulated scans of each generation; 0: no control.")] = CONTROL_SCANS,
    pictures: Annotated[Path | None, typer.Option(help="Folder outside the repository for pictures of false positives.")] = None,
    results: Annotated[Path, typer.Option(help="JSON file that the release is added to.")] = RESULTS,
    document: Annotated[Path, typer.Option(help="Markdown page to write.")] = PAGE,
    render: Annotated[bool, typer.Option("--render", help="Write the page from the JSON and measure nothing.")] = False,
) -> None:
    """Measure a release on all real images, add it to the JSON, and write the page."""
    if render == bool(bundle) or (bundle and not name):
        raise InputError(
            "options-conflict", "research.real_evidence", "BUNDLE and --name, or --render", "both or none", "name one release"
        )
    rows = read_json(results)["releases"] if results.is_file() else []
    if bundle:
        rows = with_row(rows, evidence(bundle, name, data, lesions, control_scans, pictures))
        write_json(results, {"releases": rows})
        rows = read_json(results)["releases"]  # in the order that --render sees
    write_text(document, page(rows))


def evidence(
    bundle: Path,
    name: str,
    data: Path,
    lesions: int = LESIONS,
    control_scans: int = CONTROL_SCANS,
    pictures: Path | None = None,
) -> dict:
    """All figures of one release.

    data: the folder of real files. pictures: a folder outside the repository for pictures of false positives; None for none.
    Raises InputError without the real files.
    """
    if pictures:
        require_outside(pictures)
    with BundleDetector(bundle, threads=1) as detector:
        release = detector.bundle
        scans = measure_backgrounds(detector, data, lesions, partial(draw, folder=pictures) if pictures else None)
    left_out = {"left_out": "the real planes have no phase, which the release needs"}
    cubes = left_out if release.config.preprocess.phase else measure_cubes(release, data, control_scans)
    about = {"name": name, "manifest_sha256": release.manifest_sha256, "threshold": release.config.decision.threshold}
    return about | {"lesions": lesions, "backgrounds": scans, "cubes": cubes}


def with_row(rows: Sequence[dict], row: dict) -> list[dict]:
    """The rows with the one of this name replaced, or this one added at the end."""
    names = [r["name"] for r in rows]
    return [row if r["name"] == row["name"] else r for r in rows] + ([] if row["name"] in names else [row])


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
