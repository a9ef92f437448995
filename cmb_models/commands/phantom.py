"""`cmb phantom`: simulated SWI scans with microbleeds and mimics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write the dataset into (new, or a killed run's).")],
    scans: Annotated[int, typer.Option(min=1, help="Number of scans.")] = 15,
    cmbs: Annotated[int, typer.Option(min=0, help="Number of microbleeds in all scans together.")] = 40,
    cmb_free: Annotated[int, typer.Option(min=0, help="How many of the scans have none.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Scans made at a time.")] = 2,
    small: Annotated[bool, typer.Option(help="Small fields of view: quick, for trying things out.")] = False,
) -> None:
    """Simulate SWI scans with known microbleeds, in the layout a site keeps its own scans in."""
    from cmb_models.phantom import PhantomConfig, write_dataset

    config = PhantomConfig.small() if small else PhantomConfig()
    write_dataset(out, scans=scans, cmbs=cmbs, seed=seed, cmb_free=cmb_free, workers=workers, config=config, progress=True)


def add_to(app: typer.Typer) -> None:
    app.command()(phantom)
