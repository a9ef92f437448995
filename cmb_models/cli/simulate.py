"""`cmb simulate`: simulated SWI scans with microbleeds and mimics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PRESET_HELP = (
    "Protocol, may be given several times: ukb, aibl, clinical, 7t, random, plain or small. [default: ukb, aibl, clinical]"
)


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write the dataset into (new, or a killed run's).")],
    scans: Annotated[int, typer.Option(min=1, help="Number of subjects.")] = 15,
    cmbs: Annotated[int, typer.Option(min=0, help="Number of microbleeds in all subjects together.")] = 40,
    cmb_free: Annotated[int, typer.Option(min=0, help="How many of the subjects have none.")] = 0,
    preset: Annotated[list[str] | None, typer.Option(help=PRESET_HELP, show_default=False)] = None,
    new_cmbs: Annotated[
        int | None, typer.Option(min=0, help="Add a second time point to every subject, with this many new microbleeds in all.")
    ] = None,
    calcifications: Annotated[
        int, typer.Option(min=0, help="More calcifications in each scan's white matter or cortex than it has anyway.")
    ] = 0,
    voxel_mm: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Voxel size in place of the protocol's, e.g. 0.8 0.8 2.", metavar="X Y Z"),
    ] = None,
    te_ms: Annotated[float | None, typer.Option(help="Echo time in place of the protocol's.")] = None,
    field_t: Annotated[float | None, typer.Option(help="Field strength in place of the protocol's.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same scans; to the byte on processors of one kind.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
) -> None:
    """Simulate SWI scans with known microbleeds and mimics, in the layout a site keeps its own scans in."""
    from cmb_models.phantom import write_dataset
    from cmb_models.phantom.presets import MIXED

    changes = {"spacing_mm": voxel_mm, "te_ms": te_ms, "field_t": field_t}
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
    )


def add_to(app: typer.Typer) -> None:
    app.command()(simulate)
