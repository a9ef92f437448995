"""Scaling study of the candidate network: scans to train on, optimizer steps, channels.

    python -m research.scaling data FOLDER --scans 250
    python -m research.scaling cell FOLDER --scans 60 --steps 4 --channels 16
    python -m research.scaling table

Each cell is added to research/results/scaling.json; a killed one continues from its checkpoint in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cmb_models.errors import InputError
from cmb_models.files import exclusive, read_json, write_json
from research.scaling.cells import Cell, run_cell
from research.scaling.sets import write_sets
from research.stages import ROOT, recipe_from_random
from scripts.results.blocks import scaling_table

OUT = ROOT / "research/results/scaling.json"
KEYS = ("scans", "steps", "channels")
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="Folder for scans, checkpoints and weights.")],
    scans: Annotated[int, typer.Option(min=1, help="Development phantoms.")] = 250,
) -> None:
    """Simulate and prepare the scans."""
    write_sets(folder, scans, recipe_from_random())


@app.command()
def cell(
    folder: Annotated[Path, typer.Argument(help="Folder of the scans.")],
    scans: Annotated[int, typer.Option(min=1)],
    steps: Annotated[float, typer.Option(min=0.001, help="Optimizer steps as a multiple of params.yaml's.")],
    channels: Annotated[int, typer.Option(min=1, help="Of the first level; each further one has twice as many.")],
    out: Annotated[Path, typer.Option(help="JSON file to add the cell to.")] = OUT,
) -> None:
    """Train and measure one cell."""
    measured = run_cell(folder, Cell(scans, steps, channels), recipe_from_random())
    with exclusive(out.with_suffix(".lock"), wait=True):  # cells may run in parallel
        cells = read_json(out)["cells"] if out.is_file() else []
        others = [c for c in cells if any(c[key] != measured[key] for key in KEYS)]
        write_json(out, {"cells": sorted([*others, measured], key=lambda c: [c[key] for key in KEYS])})


@app.command()
def table(out: Path = OUT) -> None:
    """Print the cells as a Markdown table."""
    print(scaling_table(read_json(out)["cells"]))


if __name__ == "__main__":
    try:
        app()
    except InputError as error:
        sys.exit(f"error: {error}")
