"""`cmb simulate`: simulated SWI scans with microbleeds and mimics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PRESET_HELP = "Protocol, repeatable: ukb, aibl, clinical, 7t, random, plain or small. [default: ukb, aibl, clinical]"


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the dataset (new, or of an interrupted run).")],
    scans: Annotated[int, typer.Option(min=1, help="Number of subjects.")] = 15,
    cmbs: Annotated[int, typer.Option(min=0, help="Total number of microbleeds.")] = 40,
    cmb_free: Annotated[int, typer.Option(min=0, help="Number of subjects without microbleeds.")] = 0,
    preset: Annotated[list[str] | None, typer.Option(help=PRESET_HELP, show_default=False)] = None,
    new_cmbs: Annotated[
        int | None, typer.Option(min=0, help="Add a second time point to every subject, with this many new microbleeds in total.")
    ] = None,
    calcifications: Annotated[
        int, typer.Option(min=0, help="Additional calcifications in each scan's white matter or cortex.")
    ] = 0,
    voxel_mm: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Voxel size instead of the protocol's, e.g. 0.8 0.8 2.", metavar="X Y Z"),
    ] = None,
    te_ms: Annotated[float | None, typer.Option(help="Echo time instead of the protocol's.")] = None,
    field_t: Annotated[float | None, typer.Option(help="Field strength instead of the protocol's.")] = None,
    generation: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="2: folded cortex, microbleeds as dark as real ones; 1: as before."),
    ] = None,
    faint_as_possible: Annotated[
        bool, typer.Option("--faint-as-possible", help="Label microbleeds too faint for a reader `possible` instead of `cmb`.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same scans; byte-identical on processors of the same type.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
) -> None:
    """Simulate SWI scans with known microbleeds and mimics, in a site's data layout."""
    from cmb_models.phantom import write_dataset
    from cmb_models.phantom.presets import MIXED

    changes = {"spacing_mm": voxel_mm, "te_ms": te_ms, "field_t": field_t, "generation": generation}
    write_dataset(
        out,
        scans=scans,
        cmbs=cmbs,
        seed=seed,
        cmb_free=cmb_free,
        workers=workers,
        presets=tuple(preset or MIXED),
        new_cmbs=new_cmbs,
        changes={k: v for k, v in changes.items() if v is not None},
        calcifications=calcifications,
        progress=True,
        faint_as_possible=faint_as_possible,
    )
    written = scans if new_cmbs is None else 2 * scans
    typer.echo(f"{written} scan{'s'[: written > 1]} in {out}; positions of microbleeds and mimics in {out / 'annotations.csv'}")


def add_to(app: typer.Typer) -> None:
    app.command()(simulate)
